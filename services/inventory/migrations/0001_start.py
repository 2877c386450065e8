"""Inventory's first schema and stock."""

from alembic import op

from orderflow import inbox, outbox
from services.inventory import models

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (outbox.TABLE, inbox.TABLES, models.TABLES):
        op.execute(statement)
    for sku, pieces in models.START.items():
        op.execute(f"INSERT INTO stock (sku, available) VALUES ('{sku}', {pieces})")
