CREATE TABLE {table}_waiting (
    order_id uuid PRIMARY KEY,
    undo boolean NOT NULL,
    asking text NOT NULL,
    resend int NOT NULL,
    tries int NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX {table}_waiting_due ON {table}_waiting (undo, next_at);
