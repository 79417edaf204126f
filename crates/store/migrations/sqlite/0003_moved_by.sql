-- The owner that moved the watermark to where it is; the row's owner is who claimed the journal
-- last, and may have flushed nothing. NULL before the first flush, and where a version that didn't
-- tell moved it.
ALTER TABLE journals ADD COLUMN moved_by TEXT;
