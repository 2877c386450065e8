"""The orchestrator's first schema."""

from alembic import op

from orchestrator import store
from orderflow import counters, inbox, outbox, trail

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, counters.TABLE, trail.table("saga_log"), store.TABLES):
        op.execute(statement)
