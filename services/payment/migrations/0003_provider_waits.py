"""Provider calls that wait, in a table of their own, so that the intents' table is neither locked nor read."""

from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = """
CREATE TABLE payments_waiting (
    order_id uuid PRIMARY KEY,
    undo boolean NOT NULL,
    asking text NOT NULL,
    resend int NOT NULL,
    tries int NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX payments_waiting_due ON payments_waiting (undo, next_at)
"""


def upgrade() -> None:
    op.execute(SCHEMA)
