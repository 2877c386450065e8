"""The stored answers to requests that carried an idempotency key."""

from orderflow.database.migrations.steps import apply

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    apply("0004_idempotency")
