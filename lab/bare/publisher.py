"""The bare loop's publisher: one thread that sends waiting messages, up to ten per call, without lingering."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque

from lab.bare.aws import BATCH, Aws
from lab.bare.messages import Outgoing


class Publisher:
    """Takes messages in memory and sends them. A batch that fails is resent after a moment."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._waiting: deque[Outgoing] = deque()
        self._changed = threading.Condition()
        self.failures = 0
        threading.Thread(target=self._run, name="publisher", daemon=True).start()

    def hand_over(self, messages: list[Outgoing]) -> None:
        """Queues messages to be sent soon."""
        if messages:
            with self._changed:
                self._waiting.extend(messages)
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                batch = self._next_batch()
            try:
                self._aws.send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop must go on
                sys.stderr.write(f"send: {error!r}\n")
                self.failures += 1
                time.sleep(0.2)
                with self._changed:
                    self._waiting.extendleft(reversed(batch))

    def _next_batch(self) -> list[Outgoing]:
        batch: list[Outgoing] = []
        others: deque[Outgoing] = deque()
        while self._waiting and len(batch) < BATCH:
            message = self._waiting.popleft()
            if batch and (message.channel, message.target) != (batch[0].channel, batch[0].target):
                others.append(message)
            else:
                batch.append(message)
        self._waiting.extendleft(reversed(others))
        return batch
