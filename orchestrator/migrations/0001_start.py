"""The orchestrator's first schema."""

from alembic import op

from orchestrator import store
from orderflow import counters, inbox, outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, counters.TABLE, store.TABLES):
        op.execute(statement)
