"""One process's connections to its own PostgreSQL database: a pool, pipelined transactions, and classes of errors."""

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

from orderflow.database.arrays import ArrayDumper
from orderflow.database.session import Session
from orderflow.errors import CommitUnanswered, ConfigurationError, Contended, DatabaseUnavailable

Connection = psycopg.Connection[TupleRow]
Cursor = psycopg.Cursor[TupleRow]

_WAIT: Final = 1.0
"""Seconds to wait for a connection before the database counts as unavailable (an HTTP caller gets 503 within 2 s)."""

_PAUSE: Final = 1.0
"""Seconds until the next thread waits for an unavailable database."""

LOCK_TIMEOUT: Final = 0.3
"""Seconds that a statement waits for a row that another transaction holds: longer than any of orderflow's own
transactions, and short enough that neither a batch nor a caller is late."""

_SESSION: Final = {
    "statement_timeout": "10s",
    "lock_timeout": f"{LOCK_TIMEOUT * 1000:.0f}ms",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    # Every query of a service can use an index. The statistics of a young partition don't show that yet, and a prepared
    # plan that scans it would be kept while it grows.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Otherwise a query on a partitioned table would be planned at every execution, over all its partitions: the
    # estimate of a generic plan, for all partitions, is always higher than that of a plan for those that remain.
    "plan_cache_mode": "force_generic_plan",
}

_ANSWER: Final = 12.0
"""Seconds to wait for an answer: somewhat longer than a statement may take. The server itself enforces its statement
limit, and the host's TCP still acknowledges what it receives: neither ends the wait for a frozen server."""

_UNAVAILABLE: Final = (
    psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout,
    # psycopg calls these two internal errors: the server has become a standby, or it ended a transaction that was idle
    # for too long.
    psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.IdleInTransactionSessionTimeout,
)  # fmt: skip

_CONTENDED: Final = (
    psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure,
)  # fmt: skip
"""In psycopg, these are operational errors too."""

_CONNECTION: Final = {
    "autocommit": True, "target_session_attrs": "read-write", "connect_timeout": 2, "tcp_user_timeout": 10_000,
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
"""A host that vanishes silently (a failover, a network partition) is noticed after about 10 s; by default it would take
a quarter of an hour. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-TCP-USER-TIMEOUT"""


def check_url(variable: str, url: str) -> None:
    """Checks that libpq can parse it: a URL (`postgresql://` or `postgres://`, one host or several), or `key=value`s.

    Raises ConfigurationError, which names the variable but never shows the value: it contains a password."""
    try:
        ports = str(conninfo_to_dict(url).get("port") or "").split(",")
        if not all(port == "" or (port.isdecimal() and 1 <= int(port) <= 65535) for port in ports):
            raise psycopg.ProgrammingError  # libpq would report it on connecting, like an unavailable database
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            f"{variable} can't be read (its value is not shown, it may hold a password): give it as "
            "postgresql://user:password@host:port/database, with %XX for other characters than letters and digits"
        ) from None


_ASKED: Final = re.compile(r"^.*connection to server .* failed: ")
"""The address it connected to: not for every caller to see, and the log has it."""


class _Connection(Session):
    """A connection that limits the wait for an answer. A server that wakes up later may still execute what it was sent,
    COMMIT included: that is a lost answer like any other."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Also takes `refusals`, a list that receives the reason if the latest attempt failed."""
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
                raise  # the server's own error, a lost connection, or a failure of an earlier statement
            self.close()
            raise psycopg.OperationalError(f"no answer within {_ANSWER:g} s") from error


class Database:
    """A connection pool, made after the fork. Every method raises DatabaseUnavailable if PostgreSQL is unavailable or
    ended the transaction for a temporary reason (a restart), and Contended if that was a lock time-out, a deadlock, or
    a row whose partition was being attached."""

    def __init__(self, url: str, *, size: int = 10, name: str = "orderflow") -> None:
        if not url:
            raise ConfigurationError(
                "DATABASE_URL is not set; give it as postgresql://user:password@host:port/database"
            )
        self.name = name
        self._refusals: list[str] = []
        self._held: set[int] = set()
        """Connections in use."""
        self._probe_at: float | None = None
        """None; or, if the database is unavailable, when to try it again. It counts as unavailable if a thread got no
        connection in time while no other thread had one."""
        self._probe = threading.Lock()
        """While it is unavailable, only one thread at a time waits for it: otherwise no threads would remain for
        requests that need no database, and the pool keeps waiters that gave up until it has reconnected."""
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
        """Starts to connect in the background: a process can start while its database is unavailable."""
        self._pool.open(wait=False)

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close(timeout=2)

    @contextmanager
    def transaction(self, *, lock_timeout: float | None = None) -> Iterator[Connection]:
        """One pipelined transaction: statements are sent together, and results are read when they are needed.

        It is committed at the end of the block, and rolled back if the block raises. Raises CommitUnanswered if it may
        have been committed nevertheless; after any other error it has not been. `lock_timeout`: seconds to wait for a
        row, instead of the usual 0.3.
        """
        # BEGIN and COMMIT are sent with the statements; psycopg's own transaction() would wait for each of them. If the
        # block raises, the pool rolls back when the connection returns to it.
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
            raise PoolTimeout("the database is unavailable, as another thread found or is finding out")
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
                    connection.close()  # otherwise the pool would keep a connection to a standby
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
        """Why the database doesn't answer, as the refusing server put it; None if it does."""
        try:
            self.query("SELECT 1")
        except DatabaseUnavailable:
            return next(iter(self._refusals), "does not answer")
        return None


def _refused(error: BaseException | None) -> bool:
    """Whether the server ended only the transaction. If it ended the whole connection (57P…), it may have executed the
    COMMIT before."""
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
        # No constraint name: these are a partition's bounds. While the row was on its way to DEFAULT, its own partition
        # was attached. A retry finds that partition.
        # It can't fail for good: every partitioned table has a DEFAULT, which takes what no other partition takes.
        raise Contended(f"a partition was attached meanwhile: {error.diag.message_primary}") from error
    except _UNAVAILABLE as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {str(error).strip() or 'connection lost'}") from error
