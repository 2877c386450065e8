"""The orchestrator's first schema."""

from alembic import op

revision = "0001"
down_revision = None

SCHEMA = """
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
CREATE TABLE saga_log (
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
CREATE INDEX saga_log_order ON saga_log (order_id);
CREATE INDEX saga_log_at ON saga_log USING brin (at);
CREATE TABLE sagas (
    order_id uuid PRIMARY KEY,
    version int NOT NULL,
    workflow text NOT NULL,
    event_bus text NOT NULL,
    traceparent text,
    snapshot text NOT NULL,
    facts text[] NOT NULL,
    state text NOT NULL,
    open_type text,
    open_id uuid,
    active boolean NOT NULL,
    attention boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT '',
    sends int NOT NULL DEFAULT 0,
    progress_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
CREATE INDEX sagas_active ON sagas (order_id) WHERE active
"""


def upgrade() -> None:
    op.execute(SCHEMA)
