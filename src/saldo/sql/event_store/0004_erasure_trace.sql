-- A trace of each erasure, written by the statement that erases: a private text that is gone without
-- its row was lost, or destroyed by other means. The functions can add a row but not choose its time,
-- and can neither change nor remove one.
CREATE TABLE event_store.erasure (
    account_id  text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,
    erased_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT erasure_position PRIMARY KEY (account_id, position)
);
INSERT INTO event_store.erasure (account_id, position, erased_at)
SELECT account_id, position, erased_at FROM event_store.event WHERE erased_at IS NOT NULL;

-- When `saldo restore` wrote the event, whose appended_at is then not near its recorded time.
ALTER TABLE event_store.event ADD COLUMN restored_at timestamptz;

GRANT SELECT (account_id, position), INSERT (account_id, position)
    ON event_store.erasure TO saldo_record;
GRANT SELECT, INSERT ON event_store.erasure TO saldo_operate;
