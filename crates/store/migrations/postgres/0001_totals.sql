-- Totals, what each journal has brought in, and what could not be brought in.

CREATE TABLE store (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id text COLLATE "C" NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE store IS 'One row: the identity of this store, which every data directory remembers.';

-- The value changes all the time, so it is in no index, and pages keep room for its next
-- version: updates then stay inside their page (HOT) and touch no index.
CREATE TABLE counters (
    key text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE counters IS 'The total of every key.';

CREATE TABLE journals (
    id text COLLATE "C" PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    claimed_at timestamptz NOT NULL DEFAULT now(),
    flushed_at timestamptz
) WITH (fillfactor = 40);
COMMENT ON TABLE journals IS 'One row for each instance: how far its journal is contained in the totals.';
COMMENT ON COLUMN journals.owner IS 'The start of the instance that may write; chosen at random each time.';
COMMENT ON COLUMN journals.seq IS 'The watermark: every record up to this one is in the totals or set aside.';

CREATE TABLE set_aside (
    journal text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    number integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    value numeric NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal, seq, number)
);
COMMENT ON TABLE set_aside IS 'What was accepted and could not be added to a total, and why.';

CREATE TABLE idempotency_keys (
    id text COLLATE "C" PRIMARY KEY,
    fingerprint bytea NOT NULL,
    journal text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    accepted_at timestamptz NOT NULL
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (accepted_at);
COMMENT ON TABLE idempotency_keys IS 'Requests with an Idempotency-Key that have been counted.';
COMMENT ON COLUMN idempotency_keys.seq IS 'The watermark of the batch that counted it.';
