"""The bare loop as a side of a comparison: a second stack in the same LocalStack, and one process per service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from lab.lines import Child, LabProblem
from lab.system import Counts, Loop, Placed, System
from lab.workload import Variant
from orderflow.routing import SERVICES

STACK: Final = "bare"
_DEPLOY: Final = Path(__file__).resolve().parents[2] / "localstack" / "init" / "ready.d" / "deploy.py"
_THREADS: Final = {"order": 2}
"""Consumer threads of a service that has more than one; the same as orderflow's default."""


class BareLoop:
    """See `Side`. The order process places the orders itself: there is no HTTP and no client."""

    name = "bare"

    def __init__(self, system: System, *, long_poll: int, threads: int | None = None) -> None:
        """Deploys the stack and starts the processes. Raises LabProblem."""
        self._system = system
        endpoint = system.url("localstack")
        _deploy(endpoint)
        self._workers = {
            service: Child(
                f"bare-{service}",
                "lab.bare.worker",
                [service, endpoint, STACK, str(long_poll), str(threads or _THREADS.get(service, 1))],
                system.folder / f"bare-{service}.log",
            )
            for service in SERVICES
        }
        self._pool = ThreadPoolExecutor(len(self._workers))
        try:
            self.counts()
        except LabProblem:
            self.close()
            raise

    def begin(self, variant: Variant, in_flight: int, pause: float) -> None:
        self._ask(
            "begin",
            workflow=variant.workflow.value,
            event_bus=variant.event_bus.value,
            in_flight=in_flight,
            pause=pause,
        )

    def completed(self) -> int:
        return int(self._ask("completed"))

    def end(self, limit: float) -> Loop:
        ended = self._ask("end", limit=limit, timeout=limit + 30)
        return Loop([Placed(accepted, decided) for accepted, decided in ended["orders"]], ended["unfinished"])

    def counts(self) -> Counts:
        found = list(self._pool.map(lambda worker: worker.ask("counts"), self._workers.values()))
        return Counts(sum((Counter(f["calls"]) for f in found), Counter()), sum(f["deliveries"] for f in found))

    def pids(self) -> Mapping[str, int]:
        return {"localstack": self._system.pids()["localstack"]} | {w.name: w.pid for w in self._workers.values()}

    def close(self) -> None:
        """Ends the processes."""
        list(self._pool.map(Child.end, self._workers.values()))
        self._pool.shutdown()

    def _ask(self, op: str, **arguments: Any) -> Any:
        return self._workers["order"].ask(op, **arguments)


def _deploy(endpoint: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(_DEPLOY)],
        env={"PATH": os.defpath, "AWS_ENDPOINT_URL": endpoint, "ORDERFLOW_STACK": STACK},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise LabProblem(f"the stack of the bare loop couldn't be deployed: {done.stderr.strip()[-500:]}")
