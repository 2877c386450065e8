"""The stored answers to requests that carried an idempotency key."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLE = """
CREATE TABLE idempotency (
    scope bytea NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status int,
    headers text,
    body text,
    owner uuid,
    leased_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_created ON idempotency USING brin (created_at)
"""


def upgrade() -> None:
    op.execute(TABLE)
