"""Payment's first schema."""

from alembic import op

from orderflow import counters, inbox, outbox
from services.payment import models

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, counters.TABLE, models.TABLES):
        op.execute(statement)
