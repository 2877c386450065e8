"""Shipping's first schema."""

from orderflow.database.migrations.steps import apply

revision = "0001"
down_revision = None


def upgrade() -> None:
    apply("0001_messaging")
    apply("0001_intents", table="shipments")
