-- For which times the ids have left the store, so that a journal for which nobody kept them hears of it.

ALTER TABLE store ADD COLUMN unknowable_before timestamptz;
COMMENT ON COLUMN store.unknowable_before IS
    'What a journal accepted before this may repeat a request whose idempotency key has left the store. NULL: none has.';
