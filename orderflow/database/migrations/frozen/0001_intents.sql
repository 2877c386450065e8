CREATE TABLE {table} (
    order_id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('intended', 'done', 'refused', 'undoing', 'undone')),
    fence int NOT NULL,
    lease_until timestamptz,
    request jsonb,
    reference text,
    reason text NOT NULL DEFAULT '',
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
