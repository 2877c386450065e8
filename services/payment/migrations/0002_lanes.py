"""The outbox by destination, and how often a message was not accepted."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCHEMA = """
ALTER TABLE outbox ADD COLUMN attempts smallint NOT NULL DEFAULT 0;
CREATE INDEX outbox_due ON outbox (channel, target, leased_until) WHERE parked IS NULL
"""


def upgrade() -> None:
    op.execute(SCHEMA)
