"""What each process has received from its queue, and which questions have been answered by each service."""

from orderflow.database.migrations.steps import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    apply("0002_watermark")
