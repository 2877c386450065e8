"""The executions of the state machine that the guardian watches."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
CREATE TABLE executions (
    order_id uuid PRIMARY KEY,
    placed text,
    state text NOT NULL DEFAULT 'watched' CHECK (state IN ('watched', 'attention', 'ended')),
    restarts int NOT NULL DEFAULT 0,
    retried boolean NOT NULL DEFAULT false,
    doubted boolean NOT NULL DEFAULT false,
    next_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX executions_watched ON executions (next_at) WHERE state = 'watched'
"""


def upgrade() -> None:
    op.execute(SCHEMA)
