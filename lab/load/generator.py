"""Places orders over HTTP in a closed loop: `python -m lab.load.generator`, with requests on standard input.

It reads the number of orders in flight from the order database (one count over the small index of open orders), so
that the service has nothing to do but take orders. It uses plain `http.client` with kept connections: on two cores,
every millisecond that the generator uses is one that the system doesn't have.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any, Final

import psycopg

from lab.lines import serve
from orderflow import clock

_LOOK_EVERY: Final = 0.04
"""Seconds between two counts of open orders; a tenth of it where single orders are timed, for their pauses."""
_TOO_MANY: Final = 100
"""Errors after which a client gives up."""

_OPEN: Final = "SELECT count(*) FROM orders WHERE open AND id > %s"


class Generator:
    """Clients, each a thread with its own connection, and a watcher that tells them when there is room for an order."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._body = b""
        self._in_flight = 0
        self._pause = 0.0
        self._running = False
        self._since = clock.new_id()
        self._issued = self._completed = 0
        self._orders: list[tuple[str, float, float]] = []
        self._errors: list[str] = []

    def connect(self, host: str, port: int, database: str, clients: int) -> None:
        """Sets where the order service and its database are, and how many requests may be in flight at once."""
        self._host, self._port, self._clients = host, port, clients
        self._database = psycopg.connect(database, autocommit=True, prepare_threshold=0)

    def begin(self, body: dict[str, Any], in_flight: int, pause: float) -> None:
        """Starts the loop."""
        self._body = json.dumps(body).encode()
        self._in_flight, self._pause, self._running = in_flight, pause, True
        self._issued = self._completed = 0
        self._orders, self._errors = [], []
        self._since = clock.new_id()
        jobs = [self._watch, *[self._place_orders] * min(self._clients, in_flight)]
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def completed(self) -> int:
        """Orders that had ended at the latest count."""
        return self._completed

    def end(self, limit: float) -> dict[str, Any]:
        """Places no more orders; waits up to `limit` seconds until none is open. (id, asked, answered) of each."""
        with self._room:
            self._running = False
            self._room.notify_all()
        ends = time.monotonic() + limit
        for thread in self._threads:
            thread.join(max(0.1, ends - time.monotonic()))
        while (still := self._open()) and time.monotonic() < ends:
            time.sleep(0.05)
        return {"orders": self._orders, "unfinished": still, "errors": self._errors}

    def _open(self) -> int:
        [(found,)] = self._database.execute(_OPEN, [self._since]).fetchall()
        return int(found)

    def _watch(self) -> None:
        every = _LOOK_EVERY / 10 if self._in_flight == 1 else _LOOK_EVERY
        while self._running:
            placed = len(self._orders)
            # Orders placed before the count that are no longer open. One in the middle of its POST counts as open.
            completed = placed - self._open()
            if completed > self._completed:
                if self._pause:
                    time.sleep(self._pause)
                with self._room:
                    self._completed = completed
                    self._room.notify_all()
            time.sleep(every)

    def _place_orders(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        while self._may_place():
            key, asked = clock.new_id(), time.time()
            try:
                # A careful client's request: it has a key, so that it may be repeated.
                connection.request("POST", "/orders", self._body, _headers(key))
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 202:
                    raise RuntimeError(f"{answer.status}: {content[:200]!r}")
                self._orders.append((json.loads(content)["id"], asked, time.time()))
            except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
                self._errors.append(repr(error))
                connection.close()
                with self._room:
                    self._issued -= 1
                if len(self._errors) >= _TOO_MANY:
                    break
                time.sleep(0.1)
        connection.close()

    def _may_place(self) -> bool:
        """Waits for room for one order, and takes it. False when the loop ends."""
        with self._room:
            while self._running and self._issued >= self._completed + self._in_flight:
                self._room.wait()
            self._issued += 1
            return self._running


def _headers(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Idempotency-Key": key}


def main() -> None:
    """Runs until standard input ends."""
    generator = Generator()
    operations = (generator.connect, generator.begin, generator.completed, generator.end)
    serve({operation.__name__: operation for operation in operations})


if __name__ == "__main__":
    main()
