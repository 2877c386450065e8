"""The order service's first schema and products."""

from dataclasses import asdict

import sqlalchemy as sa
from alembic import op

from orderflow import counters, inbox, outbox, trail
from services.order import models

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, counters.TABLE, trail.table("order_log"), models.TABLES):
        op.execute(statement)
    products = sa.table("products", *(sa.column(name) for name in ("sku", "name", "amount", "currency")))
    op.bulk_insert(products, [asdict(product) for product in models.PRODUCTS])
