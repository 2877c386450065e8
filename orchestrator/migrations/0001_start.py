"""The orchestrator's first schema."""

from alembic import op

from orderflow.database.migrations.steps import apply

revision = "0001"
down_revision = None

SCHEMA = """
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
    apply("0001_messaging")
    apply("0001_audit_log", table="saga_log")
    op.execute(SCHEMA)
