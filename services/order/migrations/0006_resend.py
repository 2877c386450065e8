"""The log has a field of its own for how often a message had been sent before."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE order_log ADD COLUMN IF NOT EXISTS resend int NOT NULL DEFAULT 0")
