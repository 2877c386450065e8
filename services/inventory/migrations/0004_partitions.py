"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from orderflow.database.migrations.steps import partition

revision = "0004"
down_revision = "0003"

# Older releases run beside this one during a rollout, and prune by ctid. A ctid identifies a row only within one
# table.
INBOX_GUARD = """
CREATE FUNCTION inbox_is_dropped_by_partition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of inbox are deleted by dropping its partitions';
END $$;
CREATE TRIGGER inbox_is_dropped_by_partition BEFORE DELETE ON inbox
FOR EACH STATEMENT EXECUTE FUNCTION inbox_is_dropped_by_partition()
"""


def upgrade() -> None:
    partition("reservations", "order_id", by_id=True, storage="fillfactor = 85")
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=INBOX_GUARD)
