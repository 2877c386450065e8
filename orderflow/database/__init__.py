"""One process's PostgreSQL: connection pool, migrations, partitions and retention. It knows nothing of messages."""

from orderflow.database.pool import LOCK_TIMEOUT, Connection, Cursor, Database, check_url

__all__ = ["LOCK_TIMEOUT", "Connection", "Cursor", "Database", "check_url"]
