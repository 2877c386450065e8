"""`idempotency_keys`, where the release before this one keeps the keys of `POST /orders`, without their callers.

While both run (a rolling deploy, a rollback) each must know what the other accepted, so this release claims its keys
there, too. The release after this one leaves that out and drops the table, when KEEP_IDEMPOTENCY_KEYS has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orderflow.database import Connection
from orderflow.idempotency import Key, reused

# The former release compares header and body as they came: `value` is the header's raw text.
_CLAIM: Final = b"""
INSERT INTO idempotency_keys (key, fingerprint, order_id, scope) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING 1
"""
_FIND: Final = b"SELECT fingerprint, order_id::text FROM idempotency_keys WHERE key = %s AND scope IS NULL"


def claim(connection: Connection, raw: str, key: Key, order_id: str) -> Callable[[], str | None]:
    """Claims a key there. Sent now; the result gives, when called, the order that the former release placed under it,
    or None. Raises Problem (422) when it is read, where that was another order."""
    cursor = connection.execute(_CLAIM, [raw, key.fingerprint, order_id, key.scope])

    def placed() -> str | None:
        if cursor.fetchall():
            return None
        # With a scope it is another caller's, of this release: each has keys of its own.
        for fingerprint, found in connection.execute(_FIND, [raw]).fetchall():
            if bytes(fingerprint) != key.fingerprint:
                raise reused()
            return str(found)
        return None

    return placed
