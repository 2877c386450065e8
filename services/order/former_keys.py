"""Shares the keys of `POST /orders` with the previous release, which keeps them in `idempotency_keys` without callers.

While both releases run (a rolling deploy, a rollback), each must know which requests the other accepted. Therefore this
release claims its keys in that table, too. The next release stops doing so, and drops the table once
KEEP_IDEMPOTENCY_KEYS has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orderflow.database import Connection
from orderflow.idempotency import Key, reused

# The previous release compares header and body as they arrived: `value` is the raw text of the header.
_CLAIM: Final = b"""
INSERT INTO idempotency_keys (key, fingerprint, order_id, scope) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING 1
"""
_FIND: Final = b"SELECT fingerprint, order_id::text FROM idempotency_keys WHERE key = %s AND scope IS NULL"


def claim(connection: Connection, raw: str, key: Key, order_id: str) -> Callable[[], str | None]:
    """Claims a key in the previous release's table. The statement is sent at once; the returned function gives the
    order that the previous release placed under the key, or None. It raises Problem (422) if the key was used for
    another order."""
    cursor = connection.execute(_CLAIM, [raw, key.fingerprint, order_id, key.scope])

    def placed() -> str | None:
        if cursor.fetchall():
            return None
        # A key with a scope belongs to another caller of this release: each caller has keys of its own.
        for fingerprint, found in connection.execute(_FIND, [raw]).fetchall():
            if bytes(fingerprint) != key.fingerprint:
                raise reused()
            return str(found)
        return None

    return placed
