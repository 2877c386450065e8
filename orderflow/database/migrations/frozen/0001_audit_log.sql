CREATE TABLE {table} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    service text NOT NULL,
    kind text NOT NULL,
    type text NOT NULL,
    message_id uuid,
    causation_id uuid,
    note text NOT NULL DEFAULT ''
);
CREATE INDEX {table}_order ON {table} (order_id);
CREATE INDEX {table}_at ON {table} USING brin (at);
