-- Of a service that owns deadlines. `receivers`: what each process has seen (`watermark.Seen`). `given_back`: orders of
-- which a message is hidden for a while. `watches`: until when the owner heard, and since when again. `frontiers`: how
-- far each service has answered (`orderflow.saga.answers`).
CREATE TABLE receivers (
    id uuid PRIMARY KEY,
    reported_at timestamptz NOT NULL,
    empty_from timestamptz,
    received_at timestamptz,
    calm double precision,
    oldest timestamptz,
    blocked_until timestamptz
) WITH (fillfactor = 50);
CREATE TABLE given_back (
    order_id uuid PRIMARY KEY,
    until timestamptz NOT NULL
);
CREATE TABLE watches (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    heard_at timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE frontiers (
    service text PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    answered_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX outbox_order ON outbox (order_id);
