"""What each process holds of its queue, and what its answerers have answered."""

from orderflow.database.migrations.steps import apply

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    apply("0002_watermark")
