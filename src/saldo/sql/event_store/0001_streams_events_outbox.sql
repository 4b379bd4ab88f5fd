-- The event store: the truth. Every key and unique constraint leads with account_id, so that the
-- tables can be hash-partitioned or distributed by account without another schema.

CREATE SCHEMA event_store;

-- One row an account: what decide() must know, and the row that a writer locks. Half of each page
-- is left free so that the update at every event stays on its page (HOT): no index grows by it.
CREATE TABLE event_store.stream (
    account_id             text COLLATE "C" PRIMARY KEY,
    currency               text,
    position               bigint NOT NULL DEFAULT 0,
    balance_minor          bigint NOT NULL DEFAULT 0,
    overdraft_limit_minor  bigint,
    hash                   bytea,
    recorded_at            timestamptz
) WITH (fillfactor = 50);

-- public_text is text, not jsonb: the exact bytes are hashed and published. private_text is null
-- once it was erased. key_hash and fingerprint are keyed hashes: they outlive erasure. balance_minor
-- is the balance after the event: a repeated request gets its first answer from this row alone.
CREATE TABLE event_store.event (
    account_id    text COLLATE "C" NOT NULL,
    position      bigint NOT NULL,
    event_id      uuid NOT NULL,
    public_text   text NOT NULL,
    private_text  text,
    hash          bytea NOT NULL,
    balance_minor bigint NOT NULL,
    key_hash      bytea,
    key_line      integer,
    fingerprint   bytea,
    reverses      uuid,
    appended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at     timestamptz,
    CONSTRAINT event_position PRIMARY KEY (account_id, position)
);
CREATE UNIQUE INDEX event_idempotency_key ON event_store.event (account_id, key_hash, key_line)
    WHERE key_hash IS NOT NULL;
CREATE UNIQUE INDEX event_reversed_once ON event_store.event (account_id, reverses)
    WHERE reverses IS NOT NULL;
CREATE INDEX event_by_id ON event_store.event (event_id);
-- For the lag sweep, which walks the last seconds. Its entries are added at the right-hand end.
CREATE INDEX event_by_time ON event_store.event (appended_at);
CREATE INDEX event_erased ON event_store.event (erased_at) WHERE erased_at IS NOT NULL;

-- What Kafka has not acknowledged yet. Rows live for milliseconds, so vacuum runs by count and does
-- not rest: the table stays a few pages long whatever passes through it.
CREATE TABLE event_store.outbox (
    account_id     text COLLATE "C" NOT NULL,
    position       bigint NOT NULL,
    appended_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_until  timestamptz,
    traceparent    text,
    CONSTRAINT outbox_position PRIMARY KEY (account_id, position)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX outbox_by_time ON event_store.outbox (appended_at);

CREATE TABLE event_store.sweep (
    name      text PRIMARY KEY,
    swept_at  timestamptz NOT NULL,
    found     bigint NOT NULL
);

GRANT USAGE ON SCHEMA event_store TO saldo_record, saldo_project, saldo_query, saldo_operate;
GRANT SELECT, INSERT, UPDATE ON event_store.stream TO saldo_record;
GRANT SELECT, INSERT ON event_store.event TO saldo_record;
GRANT UPDATE (private_text, erased_at) ON event_store.event TO saldo_record;
GRANT SELECT, INSERT, UPDATE, DELETE ON event_store.outbox TO saldo_record;
GRANT SELECT, INSERT, UPDATE ON event_store.sweep TO saldo_record;
GRANT SELECT ON event_store.stream, event_store.event TO saldo_project;
GRANT SELECT (account_id, position, recorded_at) ON event_store.stream TO saldo_query;
GRANT ALL ON ALL TABLES IN SCHEMA event_store TO saldo_operate;
