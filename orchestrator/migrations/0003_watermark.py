"""What each process holds of its queue, and what its answerers have answered."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    pass
