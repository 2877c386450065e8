"""The outbox by destination, and how often a message was not accepted."""

from orderflow.database.migrations.steps import apply

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    apply("0003_lanes")
