"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from alembic import op

from orderflow.database.migrations.steps import frozen, index, is_partitioned, partition

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE sagas ADD COLUMN IF NOT EXISTS look_at timestamptz NOT NULL DEFAULT now()")
    if not is_partitioned("sagas"):
        index("sagas_due", "ON sagas (look_at) WHERE active")
        index("sagas_state", "ON sagas (state, order_id)")
        index("sagas_attention", "ON sagas (order_id) WHERE attention")
    partition("sagas", "order_id", by_id=True, storage="fillfactor = 60", then=frozen("0006_look_at", table="sagas"))
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=frozen("0006_guard", table="inbox"))
    partition(
        "saga_log",
        "at",
        by_id=False,
        drop=("saga_log_pkey", "saga_log_at"),
        then=frozen("0006_guard", table="saga_log"),
    )
