ALTER TABLE outbox ADD COLUMN attempts smallint NOT NULL DEFAULT 0;
CREATE INDEX outbox_due ON outbox (channel, target, leased_until) WHERE parked IS NULL;
