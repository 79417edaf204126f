-- Totals, what each journal has brought in, and what could not be brought in.

-- One row: the identity of this store, which every data directory remembers.
CREATE TABLE store (
    single INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    id TEXT NOT NULL,
    made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- The total of every key. STRICT, because SQLite would otherwise turn a sum past 64 bits into
-- a floating-point number.
CREATE TABLE counters (
    key TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each instance: every record of its journal up to seq (the watermark) is in the
-- totals or set aside. The owner is the start of the instance that may write.
CREATE TABLE journals (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    seq INTEGER NOT NULL,
    first_seen_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    claimed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    flushed_at TEXT
) STRICT, WITHOUT ROWID;

-- What was accepted and could not be added to a total, and why. The value is a decimal number,
-- as text because it may be wider than 64 bits.
CREATE TABLE set_aside (
    journal TEXT NOT NULL,
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (journal, seq, number)
) STRICT, WITHOUT ROWID;

-- Requests with an Idempotency-Key that have been counted; seq is the watermark of the batch
-- that counted it.
CREATE TABLE idempotency_keys (
    id TEXT NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    journal TEXT NOT NULL,
    seq INTEGER NOT NULL,
    accepted_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (accepted_at);
