"""The CPU time of processes and the machine, from the operating system's own accounts."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds at one moment: of each named process with all its children, and of the whole machine."""

    processes: Mapping[str, float]
    machine: float

    def since(self, before: Usage) -> Usage:
        """The difference."""
        spent = {n: max(0.0, s - before.processes.get(n, 0.0)) for n, s in self.processes.items()}
        return Usage(spent, self.machine - before.machine)

    @property
    def others(self) -> float:
        """What ran beside the named processes, the operating system's own work included."""
        return max(0.0, self.machine - sum(self.processes.values()))


def usage(pids: Mapping[str, int]) -> Usage:
    """The CPU time of processes with their children, also of children that ended. A process that ended itself has 0."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent in _parents().items():
        children[parent].append(pid)
    cpu = psutil.cpu_times()
    idle = cpu.idle + getattr(cpu, "iowait", 0.0)
    # Linux counts a guest's time in `user` as well.
    total = sum(cpu) - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0)
    return Usage({name: _tree(pid, children) for name, pid in pids.items()}, total - idle)


def _parents() -> dict[int, int]:
    found = {}
    for process in psutil.process_iter(["ppid"]):
        found[process.pid] = int(process.info["ppid"] or 0)
    return found


def _tree(pid: int, children: Mapping[int, list[int]]) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    # The time of children that ended is in their parent's account, once it has waited for them.
    own = times.user + times.system + times.children_user + times.children_system
    return float(own) + sum(_tree(child, children) for child in children.get(pid, ()))


def machine() -> dict[str, Any]:
    """The machine on which a run was measured, as far as it matters to a reader."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": [round(load, 1) for load in psutil.getloadavg()],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
