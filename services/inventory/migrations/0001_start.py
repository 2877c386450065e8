"""Inventory's first schema and stock."""

import sqlalchemy as sa
from alembic import op

from orderflow import counters, inbox, outbox
from services.inventory import models

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, counters.TABLE, models.TABLES):
        op.execute(statement)
    stock = sa.table("stock", sa.column("sku"), sa.column("available"))
    op.bulk_insert(stock, [{"sku": sku, "available": pieces} for sku, pieces in models.START.items()])
