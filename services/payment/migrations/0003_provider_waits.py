"""Provider calls that wait, in a table of their own, so that the intents' table is neither locked nor read."""

from orderflow.database.migrations.steps import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    apply("0005_provider_waits", table="payments")
