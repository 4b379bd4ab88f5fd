-- The reader compares a balance's hash with the store's: after a restore a position may be another
-- event. It still reads no text and no amount.
GRANT SELECT (hash) ON event_store.stream TO saldo_query;
GRANT SELECT (account_id, position, hash) ON event_store.event TO saldo_query;
