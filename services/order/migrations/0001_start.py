"""The order service's first schema and products."""

from alembic import op

from orderflow.database.migrations.steps import apply

revision = "0001"
down_revision = None

SCHEMA = """
CREATE TABLE products (
    sku text PRIMARY KEY,
    name text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    currency text NOT NULL
);
CREATE TABLE orders (
    id uuid PRIMARY KEY,
    customer_id text NOT NULL,
    workflow text NOT NULL,
    event_bus text NOT NULL,
    snapshot text NOT NULL,
    amount bigint NOT NULL,
    currency text NOT NULL,
    traceparent text,
    placed_id uuid NOT NULL,
    cancel_id uuid NOT NULL,
    facts text[] NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'PLACED',
    reason text NOT NULL DEFAULT '',
    open boolean NOT NULL DEFAULT true,
    answered boolean NOT NULL DEFAULT false,
    attention boolean NOT NULL DEFAULT false,
    sends int NOT NULL DEFAULT 0,
    progress_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT decided_once CHECK (
        NOT ('OrderConfirmed' = ANY (facts) AND facts && '{OrderCancelled,OrderCancellationRequested}')
    )
) WITH (fillfactor = 60);
CREATE INDEX orders_open ON orders (id) WHERE open;
CREATE INDEX orders_customer ON orders (customer_id, id);
CREATE TABLE idempotency_keys (
    key text PRIMARY KEY,
    fingerprint bytea NOT NULL,
    order_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
PRODUCTS = """
INSERT INTO products (sku, name, amount, currency) VALUES
    ('BOOK-1', 'The Mythical Man-Month', 1999, 'EUR'),
    ('MUG-1', 'Mug, 0.3 l', 1250, 'EUR'),
    ('LAMP-1', 'Desk lamp', 4900, 'EUR'),
    ('RARE-1', 'Signed first edition', 25000, 'EUR'),
    ('SOLDOUT-1', 'Last year''s calendar', 900, 'EUR')
"""


def upgrade() -> None:
    apply("0001_messaging")
    apply("0001_audit_log", table="order_log")
    op.execute(SCHEMA)
    op.execute(PRODUCTS)
