"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from alembic import op

from orderflow.database.migrations.steps import index, is_partitioned, partition

revision = "0005"
down_revision = "0004"

# Older releases run beside this one during a rollout, and prune by ctid. A ctid identifies a row only within one
# table.
INBOX_GUARD = """
CREATE FUNCTION inbox_is_dropped_by_partition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of inbox are deleted by dropping its partitions';
END $$;
CREATE TRIGGER inbox_is_dropped_by_partition BEFORE DELETE ON inbox
FOR EACH STATEMENT EXECUTE FUNCTION inbox_is_dropped_by_partition()
"""
ORDER_LOG_GUARD = """
CREATE FUNCTION order_log_is_dropped_by_partition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of order_log are deleted by dropping its partitions';
END $$;
CREATE TRIGGER order_log_is_dropped_by_partition BEFORE DELETE ON order_log
FOR EACH STATEMENT EXECUTE FUNCTION order_log_is_dropped_by_partition()
"""
# Older releases do not know `look_at` either.
LOOK_AT = """
CREATE FUNCTION orders_look_at_next_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.look_at := NEW.next_at;
    RETURN NEW;
END $$;
CREATE TRIGGER orders_look_at_next_at BEFORE UPDATE ON orders
FOR EACH ROW WHEN (NEW.look_at > NEW.next_at) EXECUTE FUNCTION orders_look_at_next_at()
"""


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN IF NOT EXISTS look_at timestamptz NOT NULL DEFAULT now()")
    if not is_partitioned("orders"):
        index("orders_due", "ON orders (look_at) WHERE open")
        index("orders_status", "ON orders (status, id)")
        index("orders_workflow", "ON orders (workflow, id)")
        index("orders_attention", "ON orders (id) WHERE attention")
    partition("orders", "id", by_id=True, storage="fillfactor = 60", then=LOOK_AT)
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=INBOX_GUARD)
    partition("order_log", "at", by_id=False, drop=("order_log_pkey", "order_log_at"), then=ORDER_LOG_GUARD)
