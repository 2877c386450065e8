"""Processes that carry out requests: one JSON line in, one JSON line out. They end when their input does."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_PROJECT: Final = Path(__file__).resolve().parents[1]
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_END_SECONDS: Final = 5.0


class LabProblem(Exception):
    """Something that the lab needs has failed."""


class Child:
    """The parent's side of `python -m module`."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as errors:
            # Drop the caller's AWS settings: these clients must reach the emulator only.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=_PROJECT,
                text=True,
                start_new_session=True,  # Ctrl-C goes to the parent only, which ends its children in its own order
                env={n: os.environ[n] for n in _PASSED_ON if n in os.environ},
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"{name}-answers", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, op: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
        """Requests `op` and returns its answer. Raises LabProblem if it fails, or isn't done within `timeout` s."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._answers.get(timeout=timeout) or "{}")
        except (OSError, ValueError, queue.Empty) as error:
            raise LabProblem(f"{self.name} doesn't answer to {op}: {error!r}; see {self._log}") from error
        if "answer" not in answer:
            raise LabProblem(f"{self.name} failed at {op}: {answer.get('error', 'it ended')}; see {self._log}")
        return answer["answer"]

    def end(self) -> None:
        """Ends the process: closes its input first, then kills it."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


def serve(operations: Mapping[str, Callable[..., Any]]) -> None:
    """The child's side: carries out the requests on standard input until that ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": operations[asked.pop("op")](**asked)}
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = {"error": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
