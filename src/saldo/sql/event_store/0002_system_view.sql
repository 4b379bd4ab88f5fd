-- What an operator asks of the write side, for a role that may read none of its tables: one row, by
-- indexes alone, with a bound on whatever is counted.
CREATE VIEW event_store.system AS
SELECT
    (SELECT count(*) FROM (
        SELECT FROM event_store.event
        WHERE appended_at > statement_timestamp() - interval '10 seconds' LIMIT 100000
    ) AS e) AS events_last_10_s,
    (SELECT count(*) FROM (
        SELECT FROM event_store.event
        WHERE appended_at > statement_timestamp() - interval '60 seconds' LIMIT 100000
    ) AS e) AS events_last_60_s,
    (SELECT max(appended_at) FROM event_store.event) AS last_appended_at,
    (SELECT count(*) FROM (SELECT FROM event_store.outbox LIMIT 100000) AS o) AS outbox_rows,
    (SELECT extract(epoch FROM clock_timestamp() - min(appended_at))::float8
     FROM event_store.outbox) AS outbox_age_s,
    (SELECT swept_at FROM event_store.sweep WHERE name = 'outbox') AS outbox_swept_at;

-- It stays with the owner of the tables: nobody may give it to a role that makes nothing here.
GRANT SELECT ON event_store.system TO saldo_query;
