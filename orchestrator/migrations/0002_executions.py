"""The executions of the state machine that the guardian watches."""

from alembic import op

from orchestrator import watch

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(watch.TABLES)
