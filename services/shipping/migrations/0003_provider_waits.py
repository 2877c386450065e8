"""Provider calls that wait: in a table beside, so that the one of the intents is neither locked nor read."""

from orderflow.database.migrations.steps import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    apply("0005_provider_waits", table="shipments")
