"""The log has a field of its own for how often a message had been sent before."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE saga_log ADD COLUMN IF NOT EXISTS resend int NOT NULL DEFAULT 0")
