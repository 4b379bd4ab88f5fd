-- How far the read model lagged when the lag sweep last looked: in positions over all accounts, and
-- in seconds since the oldest event that was missing had been appended.
ALTER TABLE read_model.sweep ADD COLUMN lag_positions bigint NOT NULL DEFAULT 0;
ALTER TABLE read_model.sweep ADD COLUMN lag_s float8 NOT NULL DEFAULT 0;

CREATE INDEX balance_blocked ON read_model.balance (blocked_at) WHERE blocked_schema IS NOT NULL;
CREATE INDEX dead_letter_waiting ON read_model.dead_letter (received_at) WHERE redriven_at IS NULL;

-- What an operator asks of the read side: one row, by indexes alone, with a bound on what is counted.
CREATE VIEW read_model.system AS
SELECT
    (SELECT count(*) FROM (
        SELECT FROM read_model.dead_letter WHERE redriven_at IS NULL LIMIT 100000
    ) AS d) AS dead_letters,
    (SELECT min(received_at) FROM read_model.dead_letter
     WHERE redriven_at IS NULL) AS dead_letter_oldest_at,
    (SELECT count(*) FROM (
        SELECT FROM read_model.balance WHERE blocked_schema IS NOT NULL LIMIT 100000
    ) AS b) AS blocked_accounts,
    (SELECT min(blocked_at) FROM read_model.balance
     WHERE blocked_schema IS NOT NULL) AS blocked_oldest_at,
    s.lag_positions,
    s.lag_s,
    s.watermark AS lag_watermark,
    s.swept_at AS lag_swept_at
FROM (SELECT) AS always LEFT JOIN read_model.sweep AS s ON s.name = 'lagging';

-- A rebuild replaces read_model.balance and makes the views on it anew: it must own them.
ALTER VIEW read_model.system OWNER TO saldo_operate;
GRANT SELECT ON read_model.system TO saldo_query, saldo_project;
