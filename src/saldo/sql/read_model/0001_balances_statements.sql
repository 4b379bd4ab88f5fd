-- The read model: what the projector keeps and the query function reads. It can be dropped and
-- rebuilt from the event store at any time.

CREATE SCHEMA read_model;

CREATE TABLE read_model.balance (
    account_id      text COLLATE "C" PRIMARY KEY,
    currency        text,
    balance_minor   bigint NOT NULL DEFAULT 0,
    position        bigint NOT NULL DEFAULT 0,
    hash            bytea,
    recorded_at     timestamptz,
    blocked_at      timestamptz,
    blocked_reason  text,
    blocked_schema  integer  -- the newest event schema of the projector that gave up
) WITH (fillfactor = 50);

-- One line an event, limit events too (amount_minor is null there): position N of an account is
-- then always one look-up. Lines are shown without the limit events.
CREATE TABLE read_model.statement (
    account_id     text COLLATE "C" NOT NULL,
    position       bigint NOT NULL,
    event_id       uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('INCOME', 'EXPENSE', 'LIMIT')),
    amount_minor   bigint,
    currency       text NOT NULL,
    balance_minor  bigint NOT NULL,
    description    text,
    metadata       jsonb,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    reverses       uuid,
    reversed_by    uuid,
    hash           bytea NOT NULL,
    CONSTRAINT statement_position PRIMARY KEY (account_id, position)
) WITH (fillfactor = 90);
CREATE INDEX statement_by_recorded_time
    ON read_model.statement (account_id, recorded_at, position);
CREATE INDEX statement_by_occurred_time ON read_model.statement (account_id, occurred_at);
CREATE INDEX statement_by_id ON read_model.statement (account_id, event_id);

-- Totals by the UTC day on which the transactions occurred.
CREATE TABLE read_model.daily_total (
    account_id     text COLLATE "C" NOT NULL,
    day            date NOT NULL,
    income_minor   numeric(30, 0) NOT NULL,
    expense_minor  numeric(30, 0) NOT NULL,
    transactions   bigint NOT NULL,
    CONSTRAINT daily_total_day PRIMARY KEY (account_id, day)
) WITH (fillfactor = 70);

-- Events given up on. An account's own dead letter is parked once (account, event).
CREATE TABLE read_model.dead_letter (
    dead_letter_id  uuid NOT NULL,
    account_id      text COLLATE "C" NOT NULL,
    event_id        text NOT NULL,
    position        bigint,
    reason          text NOT NULL,
    attributes      jsonb NOT NULL,
    data            text,
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    redriven_at     timestamptz,
    CONSTRAINT dead_letter_event PRIMARY KEY (account_id, event_id)
);

CREATE TABLE read_model.sweep (
    name       text PRIMARY KEY,
    watermark  timestamptz NOT NULL,
    swept_at   timestamptz NOT NULL,
    found      bigint NOT NULL
);

GRANT USAGE ON SCHEMA read_model TO saldo_project, saldo_query, saldo_operate;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON read_model.balance, read_model.statement, read_model.daily_total TO saldo_project;
GRANT SELECT, INSERT, UPDATE ON read_model.dead_letter, read_model.sweep TO saldo_project;
GRANT SELECT ON ALL TABLES IN SCHEMA read_model TO saldo_query;
GRANT ALL ON ALL TABLES IN SCHEMA read_model TO saldo_operate;

-- A rebuild fills tables of the same names here and then moves them over: so their indexes and
-- constraints have the right names from the start. It must own both the old and the new ones, and
-- nothing else: the dead letters and the sweep's notes stay as they are.
CREATE SCHEMA read_model_next AUTHORIZATION saldo_operate;
GRANT CREATE ON SCHEMA read_model TO saldo_operate;
ALTER TABLE read_model.balance OWNER TO saldo_operate;
ALTER TABLE read_model.statement OWNER TO saldo_operate;
ALTER TABLE read_model.daily_total OWNER TO saldo_operate;
