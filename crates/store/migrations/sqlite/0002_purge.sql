-- How far each journal has got in time, so that idempotency keys can leave the store.

-- Whatever the journal accepted before this is in the totals or set aside. The end of the year
-- 9999: it was closed with nothing pending. Told only while idempotency keys are old enough to
-- leave.
ALTER TABLE journals ADD COLUMN flushed_past TEXT;

-- It was silent for so long that idempotency keys left without it: what it accepted under such a
-- key before this, and brings in later, is set aside.
ALTER TABLE journals ADD COLUMN written_off TEXT;
