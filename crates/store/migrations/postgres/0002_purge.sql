-- How far each journal has got in time, so that idempotency keys can leave the store.

ALTER TABLE journals
    ADD COLUMN flushed_past timestamptz,
    ADD COLUMN written_off timestamptz;
COMMENT ON COLUMN journals.flushed_past IS
    'Whatever it accepted before this is in the totals or set aside. Far in the future: it was closed with nothing pending. Told only while idempotency keys are old enough to leave.';
COMMENT ON COLUMN journals.written_off IS
    'It was silent for so long that idempotency keys left without it: what it accepted under such a key before this, and brings in later, is set aside.';

-- Ids leave in small batches all day long: what they leave behind is to be used again soon.
ALTER TABLE idempotency_keys SET (autovacuum_vacuum_scale_factor = 0.02);
