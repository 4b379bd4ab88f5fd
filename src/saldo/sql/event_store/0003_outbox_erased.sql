-- Whether the event's private part was erased since the row was written: then the row stays until
-- the record without it was sent.
ALTER TABLE event_store.outbox ADD COLUMN erased boolean NOT NULL DEFAULT false;
