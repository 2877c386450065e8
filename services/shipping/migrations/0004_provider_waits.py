"""Provider calls that wait, in the database."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass
