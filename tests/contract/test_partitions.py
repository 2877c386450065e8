"""Partitions by time, on a real PostgreSQL: made ahead, dropped when old, and never missed by an insert."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from orderflow import clock
from orderflow.database import Database, partitions
from orderflow.database.partitions import Partitioned, existing, keep_up
from orderflow.database.retention import Deleted, Retention, forget
from orderflow.errors import Contended, DatabaseUnavailable
from orderflow.messaging import inbox
from orderflow.saga.audit_log import AuditLog, NewRecord
from tests.support.system import until

pytestmark = pytest.mark.row(32)

NewDatabase = Callable[[str | None], str]
DAY = 86400.0
HOUR = 3600.0
INBOX = Partitioned("inbox", "message_id", by_id=True, keep=14 * DAY)
LOG = Partitioned("order_log", "at", by_id=False, keep=90 * DAY)


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("order")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url, size=3)
    made.open()
    yield made
    made.close()


def old_id(days: float) -> str:
    """A message id that was minted so many days ago."""
    minted = clock.first_id(time.time() - days * DAY)
    return minted[:13] + clock.new_id()[13:]


def claim(database: Database, *message_ids: str) -> None:
    with database.transaction() as connection:
        inbox.claim(connection, "order", [(message_id, "") for message_id in message_ids])


def known(database: Database, *message_ids: str) -> set[str]:
    with database.transaction() as connection:
        return inbox.known(connection, "order", message_ids)


def where(database: Database, message_id: str) -> str:
    [(name,)] = database.query("SELECT tableoid::regclass::text FROM inbox WHERE message_id = %s", [message_id])
    return str(name)


def test_they_are_made_ahead_and_only_once(database: Database) -> None:
    """Today's and two more, a day each; the next run finds them there. Of a log kept for longer, wider ones."""
    assert keep_up(database, INBOX, HOUR) == 3
    assert keep_up(database, INBOX, HOUR) == 0
    parts = existing(database, INBOX)
    assert [part.upper - part.lower for part in parts] == [DAY] * 3
    assert parts[0].lower <= time.time() < parts[0].upper
    assert [a.upper for a in parts[:-1]] == [b.lower for b in parts[1:]]
    claim(database, message := clock.new_id())
    assert where(database, message) == parts[0].name
    assert keep_up(database, LOG, HOUR) == 3


def test_no_insert_fails_for_want_of_a_partition(database: Database) -> None:
    """What came before its partition, of another year or with an id of another version, goes to DEFAULT and is known
    there; what belongs to a new partition moves to it."""
    before, random = clock.new_id(), "ffffffff-0000-4000-8000-000000000000"
    claim(database, before, random, old_id(400))
    assert where(database, before) == "inbox_default"
    assert keep_up(database, INBOX, HOUR) == 3
    assert where(database, before) != "inbox_default"
    assert where(database, random) == "inbox_default"
    assert known(database, before, random, clock.new_id()) == {before, random}
    with pytest.raises(psycopg.errors.UniqueViolation):
        claim(database, before)


def test_old_ones_are_dropped(database: Database) -> None:
    """As soon as all that is in them is older than it is kept; DEFAULT's rows by when they were handled."""
    claim(database, young := clock.new_id(), stray := old_id(400))
    keep_up(database, INBOX, HOUR)
    for days in (13, 15, 16):
        bounds = [INBOX.literal((time.time() // DAY - d) * DAY) for d in (days, days - 1)]
        database.query(f"CREATE TABLE old_{days} PARTITION OF inbox FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
        claim(database, old_id(days))
    retention = Retention(database, inbox.kept(14 * DAY))
    assert retention.run(HOUR)
    assert existing(database, INBOX)[0].name == "old_13"
    assert known(database, young, stray) == {young, stray}
    database.query("UPDATE inbox_default SET at = now() - interval '15 days'")
    assert retention.run(HOUR)
    assert known(database, young, stray) == {young}


def test_after_a_long_stop_there_is_a_gap(database: Database) -> None:
    """A service that was stopped for a month makes no partitions of that month."""
    begin = (time.time() // DAY - 30) * DAY
    bounds = INBOX.literal(begin), INBOX.literal(begin + DAY)
    database.query(f"CREATE TABLE once PARTITION OF inbox FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
    assert keep_up(database, INBOX, HOUR) == 3 + 1, "three made, one dropped"


@pytest.mark.parametrize("lost", range(3))
def test_a_gap_is_filled(database: Database, lost: int) -> None:
    """Also one that a process which died left between others: its rows come out of DEFAULT."""
    keep_up(database, INBOX, HOUR)
    whole = existing(database, INBOX)
    database.query(f"DROP TABLE {whole[lost].name}")
    claim(database, message := clock.first_id(whole[lost].lower + 1))
    assert where(database, message) == "inbox_default"
    assert keep_up(database, INBOX, HOUR) == 1
    assert existing(database, INBOX) == whole
    assert where(database, message) == whole[lost].name


def test_what_another_process_made_meanwhile_is_left_alone(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lock."""
    other = Database(url, size=1)
    other.open()
    until(other.alive, 10)
    creation = partitions._creation

    def late(*asked: Any) -> Any:
        monkeypatch.undo()
        assert keep_up(other, INBOX, HOUR) == 3
        return creation(*asked)

    monkeypatch.setattr(partitions, "_creation", late)
    assert keep_up(database, INBOX, HOUR) == 0
    assert len(existing(database, INBOX)) == 3
    other.close()


def test_another_width_continues_where_the_last_one_ends(database: Database) -> None:
    keep_up(database, INBOX, HOUR)
    ends = existing(database, INBOX)[-1].upper
    shorter = Partitioned("inbox", "message_id", by_id=True, keep=14 * 12 * HOUR)
    assert keep_up(database, shorter, 2 * DAY) >= 2
    made = existing(database, shorter)[3:]
    assert made[0].lower == ends
    assert {part.upper - part.lower for part in made} == {12 * HOUR}


def test_behind_a_long_reader_others_wait_for_a_moment_only(database: Database, url: str) -> None:
    """pg_dump holds every table for minutes: a change of partitions gives up, so that nobody waits behind it for longer
    than its time limit; it is made later."""
    retention = Retention(database, inbox.kept(14 * DAY))
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM inbox").fetchall()
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            keep_up(database, INBOX, HOUR)
        assert time.monotonic() - begun < 5, "the limit is far below that of a statement"
        assert not retention.run(HOUR)
        claim(database, message := clock.new_id())
    assert retention.run(HOUR)
    assert where(database, message) != "inbox_default"


def test_only_one_process_at_a_time(database: Database, url: str) -> None:
    """Several begin at the same moment: each partition is made once, and nobody fails."""
    others = [Database(url, size=2) for _ in range(3)]
    for other in others:
        other.open()
        until(other.alive, 10)
    made: list[int] = []
    threads = [threading.Thread(target=lambda d=other: made.append(keep_up(d, INBOX, HOUR))) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 3
    keep_up(database, INBOX, HOUR)  # what one left to another that had only looked
    assert len(existing(database, INBOX)) == 3
    for other in others:
        other.close()


def test_rows_of_a_partitioned_table_are_not_deleted_by_ctid(database: Database) -> None:
    """An older release prunes so, beside this one: it would hit young rows of other partitions."""
    claim(database, message := clock.new_id())
    with pytest.raises(psycopg.errors.RaiseException, match="dropping its partitions"):
        database.query("DELETE FROM inbox WHERE ctid = ANY(ARRAY(SELECT ctid FROM inbox LIMIT 10))")
    assert known(database, message) == {message}


def test_a_plan_finds_each_ids_partition(database: Database) -> None:
    """Also a prepared one: of sixteen partitions, those that hold the messages of a batch are looked at."""
    for days in range(1, 14):
        bounds = [INBOX.literal((time.time() // DAY - d) * DAY) for d in (days, days - 1)]
        database.query(f"CREATE TABLE day_{days} PARTITION OF inbox FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
    keep_up(database, INBOX, HOUR)
    statement = inbox.KNOWN.replace(b"%s", b"$1", 1).replace(b"%s", b"$2")
    ids = ",".join(old_id(days) for days in (2, 2, 5))
    with database.transaction() as connection:
        connection.execute(b"SET LOCAL plan_cache_mode = force_generic_plan")
        connection.execute(b"PREPARE asked (uuid[], text) AS " + statement)
        explain = f"EXPLAIN (ANALYZE, COSTS OFF) EXECUTE asked ('{{{ids}}}', 'order')"
        plan = [line for (line,) in connection.execute(explain.encode()).fetchall()]
    scans = [line for line in plan if "Scan using" in line]
    assert len(scans) > 14, plan
    assert len([line for line in scans if "never executed" not in line]) == 2, plan


def test_one_orders_lines_are_read_where_they_can_be(database: Database) -> None:
    """From when the order was placed on; the order of lines is that of their writing, over partitions."""
    keep_up(database, LOG, HOUR)
    log, order_id = AuditLog("order_log"), clock.new_id()
    for number in range(3):
        with database.transaction() as connection:
            log.write(connection, [NewRecord(order_id, "order", "note", f"N{number}")])
    database.query(
        "INSERT INTO order_log (order_id, at, service, kind, type)"
        " VALUES (%s, now() - interval '1 day', 'order', 'note', 'Early')",
        [order_id],
    )
    assert [line.type for line in log.read(database, order_id)] == ["N0", "N1", "N2", "Early"]
    since = log.read(database, order_id)[0].at
    assert [line.type for line in log.read(database, order_id, since)] == ["N0", "N1", "N2"]


def test_rows_without_partitions_are_deleted_to_the_last(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many statements as it needs, each of no more rows than it may: no cap, however much there is. Who comes while
    another is at it leaves it alone."""
    monkeypatch.setattr("orderflow.database.retention._CHUNK", 10)
    database.query("CREATE TABLE notes (at timestamptz, gone bool)")
    database.query("INSERT INTO notes SELECT now() - n * interval '1 s', n % 2 = 0 FROM generate_series(1, 90) AS n")
    with database.transaction() as connection:
        connection.execute(b"SELECT pg_advisory_xact_lock(hashtext('notes'))").fetchall()
        assert forget(database, Deleted("notes", "at", 40.5)) == 0
    assert forget(database, Deleted("notes", "at", 40.5, only="gone")) == 25
    assert forget(database, Deleted("notes", "at", 40.5)) == 25
    assert database.query("SELECT count(*) FROM notes") == [(40,)]


WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_row_that_meets_a_partition_being_attached_comes_again(url: str, database: Database) -> None:
    """It was on its way to DEFAULT, which may not hold it any more: nobody's failure, and gone at the next try."""
    message_id = clock.new_id()
    [part, *_] = partitions._missing(INBOX, [], time.time(), HOUR)
    met: list[BaseException] = []

    def arrive() -> None:
        try:
            with database.transaction(lock_timeout=10) as connection:
                inbox.claim(connection, "order", [(message_id, "")])
        except DatabaseUnavailable as error:
            met.append(error)

    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watcher:
        for statement in partitions._creation(INBOX, part):
            other.execute(statement.encode())
        arriving = threading.Thread(target=arrive)
        arriving.start()
        until(lambda: watcher.execute(WAITING).fetchall(), 10)
        other.commit()
        arriving.join(10)
    assert [type(error) for error in met] == [Contended]
    assert "attached" in str(met[0])
    claim(database, message_id)
    assert known(database, message_id) == {message_id}


def test_a_check_of_our_own_is_no_such_thing(database: Database) -> None:
    database.query("CREATE TABLE checked (n int CHECK (n > 0))")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.query("INSERT INTO checked VALUES (0)")
