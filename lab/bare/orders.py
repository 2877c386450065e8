"""The bare loop's orders: a closed loop in the order process itself. Each order that ends makes room for the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from lab.bare.messages import Outgoing, template
from lab.workload import Variant
from orderflow import clock
from orderflow.contracts import OrderPlaced


class Orders:
    """The orders in flight, and those that ended: (accepted, decided), in seconds since the epoch."""

    def __init__(self, send: Callable[[list[Outgoing]], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._under_way: dict[str, float] = {}
        self._variant: Variant | None = None
        self._pause = 0.0
        self.done: list[tuple[float, float]] = []

    def begin(self, variant: Variant, in_flight: int, pause: float) -> None:
        """Places `in_flight` orders, and another one `pause` seconds after each decision."""
        with self._lock:
            self._under_way, self.done = {}, []
            self._pause = pause
            self._variant = variant
        self._place(in_flight)

    def decided(self, order_id: str) -> None:
        """Records that an order has ended. A repeat changes nothing."""
        now = time.time()
        with self._lock:
            accepted = self._under_way.pop(order_id, None)
            if accepted is None:
                return
            self.done.append((accepted, now))
        if self._pause:
            threading.Timer(self._pause, self._place, [1]).start()
        else:
            self._place(1)

    def end(self, limit: float) -> int:
        """Places no more orders, waits up to `limit` seconds for those in flight, and returns how many never ended."""
        with self._lock:
            self._variant = None
        ends = time.monotonic() + limit
        while self._under_way and time.monotonic() < ends:
            time.sleep(0.02)
        return len(self._under_way)

    def _place(self, count: int) -> None:
        with self._lock:
            variant = self._variant
            if variant is None:
                return
            placed = [clock.new_id() for _ in range(count)]
            now = time.time()
            self._under_way |= dict.fromkeys(placed, now)
        self._send([template(variant, OrderPlaced, "order").fill(order_id, order_id) for order_id in placed])
