CREATE TABLE outbox (
    entry uuid PRIMARY KEY,
    order_id uuid NOT NULL,
    channel text NOT NULL,
    target text NOT NULL,
    body text NOT NULL,
    leased_until timestamptz NOT NULL,
    parked text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE TABLE inbox (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    outcome text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_at ON inbox USING brin (at);
CREATE TABLE failures (
    message_id uuid PRIMARY KEY,
    count int NOT NULL,
    last_error text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE counters (
    counter text PRIMARY KEY,
    value double precision NOT NULL
) WITH (fillfactor = 50);
