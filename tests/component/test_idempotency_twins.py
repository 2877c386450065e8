"""Requests with the same `Idempotency-Key` at once: who waits for whom, for how long, and who does not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from orderflow import clock, idempotency
from orderflow.errors import Problem
from orderflow.idempotency import Key
from orderflow.web.turns import Turns
from tests.support.restocking import pieces, restock
from tests.support.web import problem_of
from tests.support.world import World


def test_a_twin_waits_so_long_and_no_longer(world: World) -> None:
    """While the key's row is held elsewhere: 503 with Retry-After, and nothing has happened."""
    key, http = clock.new_id(), world.http("inventory")
    assert restock(http, key).status_code == 200
    before = pieces(world)
    with psycopg.connect(world.urls["inventory"]) as other:
        other.execute("DELETE FROM idempotency WHERE key = %s", [key])  # a twin sees it, until this commits
        other.execute("SELECT 1 FROM stock WHERE sku = 'LAMP-1' FOR UPDATE")
        assert restock(http, clock.new_id()).status_code == 503
        assert restock(http, key).status_code == 503
    assert pieces(world) == before
    assert restock(http, key).status_code == 200
    assert pieces(world) == before + 5


def test_a_twin_of_an_uncommitted_request_is_told_to_come_back(world: World) -> None:
    key, http = clock.new_id(), world.http("inventory")
    restock(http, key)
    [row] = world.execute("inventory", "SELECT scope, fingerprint FROM idempotency WHERE key = %s", [key])
    twin = clock.new_id()
    with psycopg.connect(world.urls["inventory"]) as other:
        other.execute("INSERT INTO idempotency (scope, key, fingerprint) VALUES (%s, %s, %s)", [row[0], twin, row[1]])
        answer = restock(http, twin)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert problem_of(answer)["title"] == "Request in progress"


def test_only_a_twin_is_waited_for_so_long(world: World) -> None:
    """After the claim a row is waited for as briefly as in any transaction: no thread is held by it."""
    service = world.services["inventory"]
    with service.database.transaction() as connection:
        usual = connection.execute("SHOW lock_timeout").fetchall()
        idempotency.claim(connection, Key(b"scope", clock.new_id(), b""))()
        assert connection.execute("SHOW lock_timeout").fetchall() == usual


def test_requests_of_one_key_take_turns() -> None:
    """One works; its twins wait and go on one after the other."""
    turns, key, inside, most = Turns(8), Key(b"", "k", b""), 0, 0

    def work() -> None:
        nonlocal inside, most
        with turns.take(key):
            inside += 1
            most = max(most, inside)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(50)]:
            done.result()
    assert most == 1
    assert not turns._turns, "nothing is kept"


def test_twins_of_a_request_that_hangs_hold_their_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience counts from its start: those that come when it is used up are refused at once. Other keys go on."""
    turns, key, hangs, began = Turns(8), Key(b"", "k", b""), threading.Event(), threading.Event()

    def hang() -> None:
        with turns.take(key):
            began.set()
            hangs.wait(60)

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(hang)
        began.wait(60)
        try:
            turns._turns[b"", "k"].since -= 3600
            for _ in range(20):
                with pytest.raises(Problem) as caught, turns.take(key):
                    pass
                assert caught.value.status == 503
            with turns.take(Key(b"", "other", b"")):
                pass
        finally:
            hangs.set()
        hanging.result()
    with turns.take(key):
        pass
