"""Answers to requests that carried an idempotency key."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass
