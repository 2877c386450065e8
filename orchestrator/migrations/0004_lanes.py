"""The outbox by destination, and how often a message was not accepted."""

from orderflow.database.migrations.steps import apply

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    apply("0003_lanes")
