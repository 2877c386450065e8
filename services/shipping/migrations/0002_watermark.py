"""What each process holds of its queue, and what its answerers have answered."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    pass
