"""The simulated providers' database. Each call is one SQL function: one round trip and one commit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg_pool import ConnectionPool

from orderflow.database.session import Session
from orderflow.errors import ConfigurationError, UnknownOutcome

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ledger (
    id text PRIMARY KEY,
    order_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('charge', 'refund', 'shipment', 'cancellation')),
    amount bigint,
    currency text,
    idempotency_key text NOT NULL,
    reverses text UNIQUE REFERENCES ledger,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS ledger_order ON ledger (order_id);
CREATE INDEX IF NOT EXISTS ledger_key ON ledger (idempotency_key);
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key text PRIMARY KEY,
    reference text,
    voided boolean NOT NULL DEFAULT false,
    attempts int NOT NULL DEFAULT 1,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS faults (
    provider text PRIMARY KEY,
    error_rate float8 NOT NULL,
    latency float8 NOT NULL,
    outage boolean NOT NULL
);

-- The key's row is locked first, by INSERT or by ON CONFLICT: a charge and the void of its key run one after another.
CREATE OR REPLACE FUNCTION provider_do(
    what text, the_order uuid, cents bigint, its_currency text, the_key text, new_id text,
    key_life float8, loses boolean
) RETURNS TABLE (verdict text, done text) LANGUAGE plpgsql AS $$
DECLARE known idempotency_keys;
BEGIN
    IF NOT loses THEN
        INSERT INTO idempotency_keys (key, reference) VALUES (the_key, new_id) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO ledger (id, order_id, kind, amount, currency, idempotency_key)
            VALUES (new_id, the_order, what, cents, its_currency, the_key);
            RETURN QUERY SELECT 'done', new_id;
            RETURN;
        END IF;
    END IF;
    INSERT INTO idempotency_keys AS k (key) VALUES (the_key)
    ON CONFLICT (key) DO UPDATE SET attempts = k.attempts + 1 RETURNING k.* INTO known;
    IF known.voided THEN
        RETURN QUERY SELECT 'voided', NULL;
    ELSIF known.reference IS NOT NULL AND known.at > clock_timestamp() - make_interval(secs => key_life) THEN
        RETURN QUERY SELECT 'done', known.reference;
    ELSIF loses AND known.attempts = 1 THEN
        RETURN QUERY SELECT 'silent', NULL;
    ELSE
        INSERT INTO ledger (id, order_id, kind, amount, currency, idempotency_key)
        VALUES (new_id, the_order, what, cents, its_currency, the_key);
        UPDATE idempotency_keys SET reference = new_id, at = clock_timestamp() WHERE key = the_key;
        RETURN QUERY SELECT CASE WHEN loses AND known.attempts = 2 THEN 'silent' ELSE 'done' END, new_id;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION provider_void(what text, opposite text, the_order uuid, the_key text, new_id text)
RETURNS TABLE (done text, cents bigint, its_currency text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency_keys (key, voided) VALUES (the_key, true) ON CONFLICT (key) DO UPDATE SET voided = true;
    INSERT INTO ledger (id, order_id, kind, amount, currency, idempotency_key, reverses)
    SELECT new_id || coalesce('-' || nullif(row_number() OVER (), 1), ''), the_order, opposite, l.amount, l.currency,
           the_order || ':' || opposite, l.id
    FROM ledger AS l WHERE l.idempotency_key = the_key AND l.kind = what
    ON CONFLICT (reverses) DO NOTHING;
    RETURN QUERY SELECT l.id, l.amount, l.currency FROM ledger AS l
        WHERE l.idempotency_key = the_key AND l.kind = what ORDER BY l.at LIMIT 1;
END $$
"""

_LOCK: Final = 4_210_002
"""An advisory lock: concurrent CREATE … IF NOT EXISTS and OR REPLACE statements are not safe."""

_DO: Final = "SELECT * FROM provider_do(%s, %s::uuid, %s::bigint, %s, %s, %s, %s::float8, %s)"
_VOID: Final = "SELECT * FROM provider_void(%s, %s, %s::uuid, %s, %s)"
_LOOKUP: Final = """
SELECT id FROM ledger AS l WHERE idempotency_key = %s AND kind = %s
AND NOT EXISTS (SELECT FROM ledger AS back WHERE back.reverses = l.id)
"""
_ENTRIES: Final = """
SELECT id, order_id::text, kind, amount, currency, idempotency_key, at FROM ledger
WHERE kind = ANY(%s) AND (%s::uuid IS NULL OR order_id = %s::uuid) ORDER BY at DESC, id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Something that a provider did. `amount` is in minor units; None if no money moved."""

    id: str
    order_id: str
    kind: str
    amount: int | None
    currency: str | None
    idempotency_key: str
    at: datetime


class Ledger:
    """The providers' database. It connects and creates its schema at first use. Every method raises UnknownOutcome if
    the database doesn't answer within `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float, size: int) -> None:
        if not url:
            raise ConfigurationError(
                "PROVIDERS_DATABASE_URL is not set; give the simulated providers a database of their own, "
                "as postgresql://user:password@host:port/database"
            )
        # The database gives up slightly before the caller does: a call that timed out must not take effect later.
        milliseconds = max(50, int(timeout * 900))
        self._pool = ConnectionPool(
            url,
            connection_class=Session,
            min_size=1,
            max_size=size,
            timeout=timeout,
            reconnect_timeout=5,
            kwargs={
                "settings": {"statement_timeout": f"{milliseconds}ms", "timezone": "UTC"},
                "connect_timeout": 2,
                "application_name": "orderflow-providers",
                "autocommit": True,
                "prepare_threshold": 0,
            },
            configure=_make_schema,
            name="providers",
            open=False,
        )

    def do(
        self, kind: str, order_id: str, key: str, new_id: str, key_life: float, *,
        amount: int | None, currency: str | None, loses: bool,
    ) -> tuple[str, str | None]:  # fmt: skip
        """Returns (`done`, id), (`voided`, None), or `silent` for no answer. `loses`: the first two calls get none."""
        [(verdict, done)] = self._rows(_DO, [kind, order_id, amount, currency, key, new_id, key_life, loses])
        return verdict, done

    def void(self, kind: str, opposite: str, order_id: str, key: str, new_id: str) -> tuple[str, int, str] | None:
        """Voids the key for ever and reverses what was done under it. Returns the id, amount and currency of that, also
        if an earlier call reversed it; None if nothing was done under the key."""
        rows = self._rows(_VOID, [kind, opposite, order_id, key, new_id])
        return rows[0] if rows else None

    def lookup(self, kind: str, key: str) -> str | None:
        """The id of what was done under the key, however long ago; None if there is nothing or it was reversed."""
        rows = self._rows(_LOOKUP, [key, kind])
        return rows[0][0] if rows else None

    def entries(self, kinds: tuple[str, ...], order_id: str | None, limit: int) -> list[LedgerEntry]:
        """The newest entries first."""
        return [LedgerEntry(*row) for row in self._rows(_ENTRIES, [list(kinds), order_id, order_id, limit])]

    def faults(self, provider: str) -> tuple[float, float, bool] | None:
        """(error rate, latency, outage) as they were last set."""
        rows = self._rows("SELECT error_rate, latency, outage FROM faults WHERE provider = %s", [provider])
        return rows[0] if rows else None

    def set_faults(self, provider: str, error_rate: float, latency: float, *, outage: bool) -> None:
        """Sets the faults for all processes."""
        self._rows(
            "INSERT INTO faults VALUES (%s, %s, %s, %s) ON CONFLICT (provider) DO UPDATE "
            "SET error_rate = excluded.error_rate, latency = excluded.latency, outage = excluded.outage",
            [provider, error_rate, latency, outage],
        )

    def open(self, wait: float) -> None:
        """Connects, and waits up to `wait` seconds for it. Calling this is optional."""
        self._pool.open(wait=True, timeout=wait)

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close(timeout=2)

    def _rows(self, statement: str, parameters: list[Any]) -> list[Any]:
        try:
            self._pool.open()
            with self._pool.connection() as connection:
                return connection.rows(statement, parameters)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:  # a PoolTimeout is an OperationalError
            raise UnknownOutcome(f"the provider does not answer: {type(error).__name__}") from error


def _make_schema(connection: psycopg.Connection[Any]) -> None:
    if connection.execute("SELECT to_regprocedure('provider_void(text, text, uuid, text, text)')").fetchone() == (
        None,
    ):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute("SET LOCAL statement_timeout = '10s'")
            connection.execute(SCHEMA.encode(), prepare=False)
