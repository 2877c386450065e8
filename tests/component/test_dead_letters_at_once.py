"""Dead letters in several operators' hands at once, of an unavailable database, and of messages that return."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orderflow.broker import DeadLetter
from orderflow.broker.memory import MemoryDeadLetters
from orderflow.messaging import dead_letters
from orderflow.messaging.dead_letters import DeadLetters
from tests.support.world import World


class Shelf(MemoryDeadLetters):
    """Letters of a queue that a test knows; counts what was handed out."""

    def __init__(self, world: World, service: str, number: int) -> None:
        queue = world.broker.queues[service]
        for n in range(number):
            queue.put(f"letter {n}")
        while deliveries := queue.receive(10, 0):
            for delivery in deliveries:
                queue.park(delivery, "a reason")
        super().__init__(service, queue)
        self.redriven: list[str] = []

    def redrive(self, letters: Any) -> Any:
        self.redriven += [letter.body for letter in letters]
        self.discard(letters)
        return letters


def of(world: World, shelf: Shelf) -> DeadLetters:
    service = world.services["shipping"]
    letters = DeadLetters(service.application, service.outbox, service.broker.dead_letters("shipping"))
    letters._queues = [shelf]
    return letters


def test_several_operators_at_once_lose_and_double_nothing(world: World) -> None:
    """Two redrive all while two list: every letter is sent once, each list gives back what it held."""
    shelf = Shelf(world, "shipping", 300)
    seen: list[int] = []

    def look() -> None:
        seen.append(len(of(world, shelf).look(lambda letter: True, 500)[0]))

    def redrive() -> None:
        of(world, shelf).settle("redriven", lambda letter: True, "ada", "test")

    threads = [threading.Thread(target=job) for job in (look, redrive, look, redrive)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 2, "both lists came to an end"
    assert sorted(shelf.redriven) == sorted(f"letter {n}" for n in range(300))
    assert shelf.depth() == 0


def test_one_that_another_operator_holds_is_waited_for(world: World) -> None:
    shelf = Shelf(world, "shipping", 3)
    held = shelf.take(2)
    threading.Timer(0.3, shelf.give_back, [held]).start()
    found, complete = of(world, shelf).look(lambda letter: True, 10)
    assert len(found) == 3
    assert complete


def test_one_that_another_operator_keeps_is_not_waited_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says that it is not complete; what was seen is free again."""
    monkeypatch.setattr(dead_letters, "_PATIENCE", 0.3)
    shelf = Shelf(world, "shipping", 5)
    shelf.take(2)
    found, complete = of(world, shelf).look(lambda letter: True, 10)
    assert (len(found), complete) == (3, False)
    assert len(shelf.take(10)) == 3


def test_what_returns_meanwhile_is_not_redriven_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose handler still fails is parked again at once; a redrive of all must come to an end."""
    shelf = Shelf(world, "shipping", 25)

    def comes_back(letters: list[DeadLetter]) -> list[DeadLetter]:
        Shelf.redrive(shelf, letters)
        for letter in letters:
            queue = world.broker.queues["shipping"]
            queue.put(letter.body)
            queue.park(queue.receive(1, 0)[0], "again")
        return letters

    monkeypatch.setattr(shelf, "redrive", comes_back)
    assert len(of(world, shelf).settle("redriven", lambda letter: True, "ada", "test")) == 25
    assert shelf.depth() == 25


def test_without_its_database_a_dead_letter_stays(world: World) -> None:
    """Nothing is done that could not be recorded."""
    shelf = Shelf(world, "shipping", 1)
    assert shelf.depth() == 1
    database = world.services["shipping"].database
    database.close()
    try:
        answer = world.http("shipping").post("/dlq/discard", json={"by": "ada", "why": "test", "all": True})
        assert answer.status_code == 503
    finally:
        world.start("shipping")
    assert len(world.http("shipping").get("/dlq").json["items"]) == 1
