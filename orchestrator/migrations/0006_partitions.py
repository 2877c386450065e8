"""Tables that grow are partitioned by time; rows that are due are found by an index."""

from alembic import op

from orderflow.database.migrations.steps import index, is_partitioned, partition

revision = "0006"
down_revision = "0005"

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
SAGA_LOG_GUARD = """
CREATE FUNCTION saga_log_is_dropped_by_partition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of saga_log are deleted by dropping its partitions';
END $$;
CREATE TRIGGER saga_log_is_dropped_by_partition BEFORE DELETE ON saga_log
FOR EACH STATEMENT EXECUTE FUNCTION saga_log_is_dropped_by_partition()
"""
# Older releases do not know `look_at` either.
LOOK_AT = """
CREATE FUNCTION sagas_look_at_next_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.look_at := NEW.next_at;
    RETURN NEW;
END $$;
CREATE TRIGGER sagas_look_at_next_at BEFORE UPDATE ON sagas
FOR EACH ROW WHEN (NEW.look_at > NEW.next_at) EXECUTE FUNCTION sagas_look_at_next_at()
"""


def upgrade() -> None:
    op.execute("ALTER TABLE sagas ADD COLUMN IF NOT EXISTS look_at timestamptz NOT NULL DEFAULT now()")
    if not is_partitioned("sagas"):
        index("sagas_due", "ON sagas (look_at) WHERE active")
        index("sagas_state", "ON sagas (state, order_id)")
        index("sagas_attention", "ON sagas (order_id) WHERE attention")
    partition("sagas", "order_id", by_id=True, storage="fillfactor = 60", then=LOOK_AT)
    partition("inbox", "message_id", by_id=True, drop=("inbox_at",), then=INBOX_GUARD)
    partition("saga_log", "at", by_id=False, drop=("saga_log_pkey", "saga_log_at"), then=SAGA_LOG_GUARD)
