"""One process's connections to its own PostgreSQL database: a pool, pipelined transactions, errors by their class."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from orderflow.arrays import ArrayDumper
from orderflow.errors import CommitUnanswered, ConfigurationError, Contended, DatabaseUnavailable
from orderflow.session import Session

Connection = psycopg.Connection[TupleRow]
Cursor = psycopg.Cursor[TupleRow]

_WAIT: Final = 1.0
"""Seconds to wait for a connection before the database counts as away (an HTTP caller gets its 503 within 2 s)."""

_PAUSE: Final = 1.0
"""Seconds until somebody waits for it again."""

LOCK_TIMEOUT: Final = 0.3
"""Seconds that a statement waits for a row that another transaction holds: longer than any transaction of orderflow's
own takes, and so short that neither a batch nor a caller is late for it."""

_SESSION: Final = {
    "statement_timeout": "10s",
    "lock_timeout": f"{LOCK_TIMEOUT * 1000:.0f}ms",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    # All that a service asks for is found by an index. Of a partition that is an hour old statistics don't know that,
    # and a prepared plan that reads it as a whole would be kept while it grows.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Or what reads a partitioned table would be planned anew each time it is executed, for as many partitions as there
    # are by then: an estimate for all of them is always higher than one for those that a first look leaves.
    "plan_cache_mode": "force_generic_plan",
}

_ANSWER: Final = 12.0
"""Seconds to wait for an answer: somewhat longer than a statement may take. That limit is the server's own, and TCP's
are the host's, which acknowledges what it is sent: neither ends the wait for a server that is frozen."""

_AWAY: Final = (
    psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout,
    # psycopg counts these two among internal errors: the server has become a standby, or ended a transaction that it
    # waited too long for.
    psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.IdleInTransactionSessionTimeout,
)  # fmt: skip

_CONTENDED: Final = (
    psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure,
)  # fmt: skip
"""By psycopg these are operational errors too."""

_CONNECTION: Final = {
    "autocommit": True, "target_session_attrs": "read-write", "connect_timeout": 2, "tcp_user_timeout": 10_000,
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
"""A host that is gone without a word (a failover, a partition) is noticed after some 10 s; by default after a quarter
of an hour. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-TCP-USER-TIMEOUT"""


def check_url(variable: str, url: str) -> None:
    """Whether libpq can read it: a URL (`postgresql://` or `postgres://`, one host or several), or `key=value` pairs.

    Raises ConfigurationError, which names the variable and never the value: a password is in it."""
    try:
        ports = str(conninfo_to_dict(url).get("port") or "").split(",")
        if not all(port == "" or (port.isdecimal() and 1 <= int(port) <= 65535) for port in ports):
            raise psycopg.ProgrammingError  # libpq says it when it connects, as if the database were away
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            f"{variable} can't be read (its value is not shown, it may hold a password): give it as "
            "postgresql://user:password@host:port/database, with %XX for other characters than letters and digits"
        ) from None


_ASKED: Final = re.compile(r"^.*connection to server .* failed: ")
"""Whom it asked: nothing to tell everybody, and the log says it."""


class _Connection(Session):
    """One that gives up waiting. A server that wakes up later may carry out what it had been sent, COMMIT included:
    that is a lost answer like any other."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Takes `refusals` too, which holds why the latest attempt failed, if it did."""
        refusals: list[str] = kwargs.pop("refusals")
        try:
            made = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            refusals[:] = [_ASKED.sub("", (str(error).splitlines() or ["refused"])[0])]
            raise
        refusals.clear()
        return made

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, _ANSWER if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if error.sqlstate or self.closed or isinstance(error, psycopg.errors.PipelineAborted):
                raise  # the server's own, or it is gone, or a statement failed that went out before
            self.close()
            raise psycopg.OperationalError(f"no answer within {_ANSWER:g} s") from error


class Database:
    """A pool made after the fork. Every method raises DatabaseUnavailable when PostgreSQL is away or ended the
    transaction for a reason that may pass (a restart), Contended where that was a lock time-out, a deadlock, or a row
    that met a partition being attached."""

    def __init__(self, url: str, *, size: int = 10, name: str = "orderflow") -> None:
        if not url:
            raise ConfigurationError(
                "DATABASE_URL is not set; give it as postgresql://user:password@host:port/database"
            )
        self.name = name
        self._refusals: list[str] = []
        self._held: set[int] = set()
        """Connections that somebody has."""
        self._probe_at: float | None = None
        """None, or the database is away, and when it is worth asking again: the last who asked got no connection in
        time while nobody had any."""
        self._probe = threading.Lock()
        """While it is away, one at a time waits for it: threads that all wait would leave none for requests that need
        no database, and the pool keeps whoever gave up until it has connected again."""
        self._pool: ConnectionPool[_Connection] = ConnectionPool(
            url,
            connection_class=_Connection,
            min_size=1,
            max_size=size,
            timeout=_WAIT,
            max_idle=120,
            reconnect_timeout=5,
            kwargs={"settings": _SESSION, "refusals": self._refusals, "application_name": name, **_CONNECTION},
            configure=_prepare,
            name=name,
            open=False,
        )

    def open(self) -> None:
        """Starts to connect, in the background: a database that is away is no reason not to start."""
        self._pool.open(wait=False)

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close(timeout=2)

    @contextmanager
    def transaction(self, *, lock_timeout: float | None = None) -> Iterator[Connection]:
        """One pipelined transaction: statements go out together and their results are read when asked for.

        Committed at the end of the block, rolled back if it raises. Raises CommitUnanswered where it may be committed
        all the same; after any other error it is not. `lock_timeout`: seconds that it waits for a row, in place of the
        usual 0.3.
        """
        # BEGIN and COMMIT travel with the statements; psycopg's own transaction() would wait for each of them. If the
        # block raises, the pool rolls back as it takes the connection back.
        committing = False
        try:
            with _translated(), self._connection() as connection, connection.pipeline():
                connection.begin()
                if lock_timeout is not None:
                    connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout * 1000:.0f}ms'".encode())
                yield connection
                committing = True
                connection.execute(b"COMMIT")
        except DatabaseUnavailable as error:
            if committing and not _refused(error.__cause__):
                raise CommitUnanswered(str(error)) from error
            raise

    def query(self, sql: str, parameters: Any = None) -> list[TupleRow]:
        """The rows of one statement, in a transaction of its own."""
        with _translated(), self._connection() as connection:
            return connection.rows(sql, parameters)

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        at = self._probe_at
        probing = at is not None
        if at is not None and (time.monotonic() < at or not self._probe.acquire(blocking=False)):
            raise PoolTimeout("the database is away, as another found or is finding out")
        try:
            with self._pool.connection() as connection:
                self._probe_at = None
                if probing:
                    self._probe.release()
                    probing = False
                self._held.add(id(connection))
                try:
                    yield connection
                except psycopg.errors.ReadOnlySqlTransaction:
                    connection.close()  # or the pool would keep what leads to a standby
                    raise
                finally:
                    self._held.discard(id(connection))
        except PoolTimeout:
            self._probe_at = None if self._held else time.monotonic() + _PAUSE
            raise
        finally:
            if probing:
                self._probe.release()

    def alive(self) -> bool:
        """Whether the database answers."""
        return self.problem() is None

    def problem(self) -> str | None:
        """Why the database doesn't answer, in the words of whoever refused to connect; None if it does."""
        try:
            self.query("SELECT 1")
        except DatabaseUnavailable:
            return next(iter(self._refusals), "does not answer")
        return None


def _refused(error: BaseException | None) -> bool:
    """Whether the server ended the transaction itself, and not (57P…) the whole connection, whose COMMIT it may have
    carried out before."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return state is not None and not state.startswith(("57P", "08"))


def _prepare(connection: Connection) -> None:
    connection.adapters.register_dumper(list, ArrayDumper)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _CONTENDED as error:
        raise Contended(f"{type(error).__name__}: {str(error).strip()}") from error
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name:
            raise
        # A partition's bounds, which are no constraint with a name: while the row was on its way to DEFAULT, the
        # partition that it belongs to was attached. The next try finds that. It can't be for good: every partitioned
        # table has a DEFAULT, which takes what no other takes.
        raise Contended(f"a partition was attached meanwhile: {error.diag.message_primary}") from error
    except _AWAY as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {str(error).strip() or 'connection lost'}") from error
