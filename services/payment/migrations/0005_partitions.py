"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from orderflow.database.migrations.steps import frozen, partition

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    partition("payments", "order_id", by_id=True, storage="fillfactor = 70")
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=frozen("0006_guard", table="inbox"))
