"""`orderflow doctor`: checks every part of the system, and says what is wrong and what to do about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table
from rich.text import Text

from cli import connect
from cli.commands import doctor_checks
from cli.commands.doctor_checks import Finding, Told
from cli.options import JsonFlag
from cli.views import common
from client.api import Api, ApiProblem
from orderflow.routing import SERVICES
from runtime import (
    AttachedRuntime,
    ContainerRuntime,
    EmbeddedRuntime,
    Plan,
    Runtime,
    RuntimeProblem,
    preflight,
    runtime,
)
from runtime.embedded import localstack
from runtime.home import PROJECT

_DRIFT: Final = PROJECT / "deploy" / "stack" / "drift.py"
_DRIFT_SECONDS: Final = 60.0
_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}
_PREFIX: Final = "orderflow_"
_JAEGER: Final = frozenset({"JAEGER_PORT", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT"})


def doctor(as_json: JsonFlag = False) -> None:
    """Check everything: parts, stack, databases, queues, dead letters, outboxes, stuck orders, clocks.

    The exit code is 1 if there is a problem; warnings alone leave it at 0.
    """
    system = runtime()
    findings = examine(system)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        common.print_json({"healthy": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if problems:
        raise typer.Exit(1)


def examine(system: Runtime) -> list[Finding]:
    """All findings about a system, as it is now."""
    if not system.running:
        return _of_one_that_is_down(system)
    plan, api = system.running_plan(), connect.connect()
    with ThreadPoolExecutor(max_workers=len(SERVICES) + 2) as pool:
        asking = pool.map(lambda name: ask(api, name), SERVICES)
        comparing = pool.submit(_deployed, system, plan)
        looking = pool.submit(system.status)
        told = dict(zip(SERVICES, asking, strict=True))
        deployed, reason = comparing.result()
        found = [Finding("runtime", "ok", _name(system)), *doctor_checks.parts(looking.result())]
    depths = _depths(deployed, plan)
    return [
        *found,
        *doctor_checks.services(told),
        _broker(plan),
        *doctor_checks.stack(deployed, reason),
        *doctor_checks.databases(told),
        *doctor_checks.queues(told, depths),
        *doctor_checks.dead_letters(told, depths),
        *doctor_checks.outboxes(told),
        *doctor_checks.stuck(told),
        *doctor_checks.clocks(told),
    ]


def ask(api: Api, service: str) -> Told:
    """What a service reports about itself."""
    try:
        ahead = api.clock_ahead(service)
        samples = [s for f in text_string_to_metric_families(api.text(service, "/metrics")) for s in f.samples]
    except ApiProblem as problem:
        return Told(refusal=problem.what.splitlines()[0], away=True)
    return Told(
        refusal=_refusal(api, service),
        gauges={s.name.removeprefix(_PREFIX): s.value for s in samples if not s.labels},
        dead_letters={s.labels["queue"]: int(s.value) for s in samples if s.name == f"{_PREFIX}dlq_messages"},
        clock_ahead=ahead,
    )


def _refusal(api: Api, service: str) -> str:
    try:
        api.text(service, "/readyz")
    except ApiProblem as problem:
        return problem.what.splitlines()[0]
    return ""


def _of_one_that_is_down(system: Runtime) -> list[Finding]:
    found = [Finding("runtime", "problem", f"orderflow isn't running ({_name(system)})", "start it: make up")]
    if isinstance(system, AttachedRuntime):
        return found
    try:
        if isinstance(system, EmbeddedRuntime):
            preflight.check_python()
            preflight.check_packages()
            preflight.check_disk(system.home.path if system.home.path.exists() else PROJECT)
        plan = system.plan
        traced = isinstance(system, ContainerRuntime) or shutil.which("jaeger") is not None
        preflight.check_ports({name: port for name, port in plan.ports.items() if traced or name not in _JAEGER})
    except RuntimeProblem as problem:
        return [*found, Finding("start", "problem", problem.what, problem.way_out)]
    return [*found, Finding("start", "ok", "nothing prevents a start: settings, ports and disk are fine")]


def _deployed(system: Runtime, plan: Plan) -> tuple[Mapping[str, Any] | None, str]:
    """The stack deployer's comparison; or None, and why. Only the deployer talks to AWS (see pyproject.toml)."""
    if isinstance(system, AttachedRuntime) or not _DRIFT.exists():
        return None, "this container doesn't hold it; on the host: orderflow doctor"
    try:
        done = subprocess.run(
            [sys.executable, str(_DRIFT), plan.url("localstack")],
            env={"ORDERFLOW_STACK": plan.settings.get("ORDERFLOW_STACK", "orderflow")},
            capture_output=True, text=True, check=False, timeout=_DRIFT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"LocalStack takes more than {_DRIFT_SECONDS:.0f} s"
    if done.returncode > 1 or not done.stdout:
        return None, (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return json.loads(done.stdout), ""


def _depths(deployed: Mapping[str, Any] | None, plan: Plan) -> dict[str, int]:
    """Messages per queue, named without the stack's name; only the queues whose depth is known."""
    prefix = f"{plan.settings.get('ORDERFLOW_STACK', 'orderflow')}-"
    return {name.removeprefix(prefix): n for name, n in deployed["depths"].items()} if deployed else {}


def _broker(plan: Plan) -> Finding:
    url = plan.url("localstack")
    try:
        if localstack.ready(plan):
            return Finding("broker", "ok", f"LocalStack answers at {url}, and has deployed its stack")
    except RuntimeProblem as problem:
        return Finding("broker", "problem", str(problem), "orderflow logs localstack; then: make up")
    text = f"LocalStack does not answer at {url}, or is still starting"
    return Finding("broker", "problem", text, "orderflow logs localstack; then: make up")


def _name(system: Runtime) -> str:
    kinds = {EmbeddedRuntime: "embedded", ContainerRuntime: "containers", AttachedRuntime: "attached to containers"}
    return f"{kinds.get(type(system), 'unknown')}, Python {sys.version.split()[0]}"


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("finding", overflow="fold", ratio=3)
    table.add_column("what to do", overflow="fold", ratio=2)
    last = ""
    for finding in findings:
        mark, colour = _MARKS[finding.level]
        check = finding.check if finding.check != last else ""
        table.add_row(Text(mark, colour), check, Text(finding.text), Text(finding.way_out, "dim"))
        last = finding.check
    console = common.console()
    console.print(table)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    if any(counts.values()):
        console.print("\n" + ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items()))
    else:
        console.print("\n[green]✓[/] nothing is wrong")
