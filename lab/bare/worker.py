"""One service of the bare loop: `python -m lab.bare.worker order ENDPOINT STACK LONG_POLL THREADS`.

Consumer threads, a publisher thread, and the main thread, which does what the bench asks on standard input.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any, Final

from lab.bare.aws import Aws
from lab.bare.messages import DECISION, Outgoing, reactions, template
from lab.bare.orders import Orders
from lab.bare.publisher import Publisher
from lab.lines import serve
from lab.workload import Variant
from orderflow.contracts import name_of

_NAME: Final = slice(len("orderflow."), -len(".v1"))


class Worker:
    """Receives messages, sends those that follow, and acknowledges."""

    def __init__(self, service: str, aws: Aws, threads: int) -> None:
        self.service = service
        self._aws = aws
        self._publisher = Publisher(aws)
        self._orders = Orders(self._publisher.hand_over)
        self.deliveries: Counter[str] = Counter()
        for i in range(threads):
            threading.Thread(target=self._run, name=f"consumer-{i}", daemon=True).start()

    def counts(self) -> dict[str, Any]:
        """This process's counters so far."""
        return {
            "calls": dict(self._aws.calls),
            "deliveries": sum(self.deliveries.values()),
            "failures": self._publisher.failures,
        }

    def begin(self, workflow: str, event_bus: str, in_flight: int, pause: float) -> None:
        """Starts the closed loop (the order service only)."""
        self._orders.begin(Variant.of(workflow, event_bus), in_flight, pause)

    def completed(self) -> int:
        """Orders of this loop that have ended."""
        return len(self._orders.done)

    def end(self, limit: float) -> dict[str, Any]:
        """Ends the loop; waits up to `limit` seconds for orders in flight. [accepted, decided] of each order."""
        unfinished = self._orders.end(limit)
        return {"orders": self._orders.done, "unfinished": unfinished}

    def _run(self) -> None:
        while True:
            try:
                messages = self._aws.receive(self.service)
                if messages:
                    self._publisher.hand_over(self._handle(messages))
                    self._aws.delete(self.service, [m["ReceiptHandle"] for m in messages])
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop must go on
                sys.stderr.write(f"{self.service}: {error!r}\n")
                time.sleep(0.2)

    def _handle(self, messages: list[dict[str, Any]]) -> list[Outgoing]:
        out: list[Outgoing] = []
        for message in messages:
            envelope = json.loads(message["Body"])
            name = envelope["type"][_NAME]
            variant = Variant.of(envelope["workflow"], envelope["eventbus"])
            self.deliveries[name] += 1
            model = reactions(variant.workflow).get((self.service, name))
            if model is None:
                continue
            order_id = envelope["subject"]
            out.append(template(variant, model, self.service).fill(order_id, envelope["id"], envelope.get("tasktoken")))
            if name_of(model) == DECISION:
                self._orders.decided(order_id)
        return out


def main(arguments: list[str]) -> None:
    """Runs until standard input ends."""
    service, endpoint, stack, long_poll, threads = arguments
    worker = Worker(service, Aws(endpoint, stack, int(long_poll)), int(threads))
    serve({"counts": worker.counts, "begin": worker.begin, "completed": worker.completed, "end": worker.end})


if __name__ == "__main__":
    main(sys.argv[1:])
