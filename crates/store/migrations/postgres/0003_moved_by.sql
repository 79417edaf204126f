-- Who brought the watermark to where it is. The owner is who claimed the journal last, and may have
-- flushed nothing.

ALTER TABLE journals ADD COLUMN moved_by text COLLATE "C";
COMMENT ON COLUMN journals.moved_by IS
    'The owner that moved the watermark to where it is. NULL before the first flush, and where a version that didn''t tell moved it.';
