-- What a journal accepted before this may repeat a request whose idempotency key has left the store;
-- NULL: none has. A journal for which nobody kept keys hears of it when it is claimed.
ALTER TABLE store ADD COLUMN unknowable_before TEXT;
