"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from alembic import op

from orderflow.database.migrations.steps import frozen, index, is_partitioned, partition

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN IF NOT EXISTS look_at timestamptz NOT NULL DEFAULT now()")
    if not is_partitioned("orders"):
        index("orders_due", "ON orders (look_at) WHERE open")
        index("orders_status", "ON orders (status, id)")
        index("orders_workflow", "ON orders (workflow, id)")
        index("orders_attention", "ON orders (id) WHERE attention")
    partition("orders", "id", by_id=True, storage="fillfactor = 60", then=frozen("0006_look_at", table="orders"))
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=frozen("0006_guard", table="inbox"))
    partition(
        "order_log",
        "at",
        by_id=False,
        drop=("order_log_pkey", "order_log_at"),
        then=frozen("0006_guard", table="order_log"),
    )
