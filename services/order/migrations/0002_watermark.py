"""What each process has received from its queue, and which questions have been answered by each service."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
CREATE TABLE receivers (
    id uuid PRIMARY KEY,
    reported_at timestamptz NOT NULL,
    empty_from timestamptz,
    received_at timestamptz,
    calm double precision,
    oldest timestamptz,
    blocked_until timestamptz
) WITH (fillfactor = 50);
CREATE TABLE given_back (
    order_id uuid PRIMARY KEY,
    until timestamptz NOT NULL
);
CREATE TABLE watches (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    heard_at timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE frontiers (
    service text PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    answered_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX outbox_order ON outbox (order_id)
"""


def upgrade() -> None:
    op.execute(SCHEMA)
