"""Inventory's first schema and stock."""

from alembic import op

from orderflow.database.migrations.steps import apply

revision = "0001"
down_revision = None

SCHEMA = """
CREATE TABLE stock (
    sku text PRIMARY KEY,
    available int NOT NULL CHECK (available >= 0),
    reserved int NOT NULL DEFAULT 0 CHECK (reserved >= 0)
) WITH (fillfactor = 50);
CREATE TABLE reservations (
    order_id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('reserved', 'rejected', 'released')),
    skus text[] NOT NULL DEFAULT '{}',
    quantities int[] NOT NULL DEFAULT '{}',
    reason text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 85)
"""
STOCK = """
INSERT INTO stock (sku, available) VALUES
    ('BOOK-1', 100000),
    ('MUG-1', 100000),
    ('LAMP-1', 100000),
    ('RARE-1', 100),
    ('SOLDOUT-1', 0)
"""


def upgrade() -> None:
    apply("0001_messaging")
    op.execute(SCHEMA)
    op.execute(STOCK)
