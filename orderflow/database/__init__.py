"""One process's PostgreSQL: its pool, its migrations, its partitions. Knows no message."""

from orderflow.database.pool import LOCK_TIMEOUT, Connection, Cursor, Database, check_url

__all__ = ["LOCK_TIMEOUT", "Connection", "Cursor", "Database", "check_url"]
