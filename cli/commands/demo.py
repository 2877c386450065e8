"""`orderflow demo`: real orders through every workflow, step by step, checked against ledgers and stock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.console import Console

from cli import connect
from cli.options import BusOption, JsonFlag, WorkflowOption, one_of
from cli.views import common, lifecycle
from cli.views import demo as demo_view
from client import checks, cost
from client.api import Api, ApiProblem, Json
from client.checks import Stock
from client.cost import Cost
from client.order_bodies import basket
from client.timeline import OrderTimeline, follow, place, settle
from orderflow.routing import variants
from runtime import runtime

_LIMIT: Final = 75.0
"""Seconds to wait for one order: its owner compensates it after 60 s without an answer."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is ordered, and the outcome that is expected."""

    name: str
    what: str
    expected: str
    owed: tuple[str, ...] = ()
    """The steps that must be compensated."""
    sku: str = "BOOK-1"
    quantity: int = 2
    payment_method: str = "pm_card_visa"
    postal_code: str = "10115"


SCENARIOS: Final = (
    Scenario("success", "two books, a good card", "CONFIRMED"),
    Scenario("out of stock", "SOLDOUT-1", "CANCELLED", sku="SOLDOUT-1"),
    Scenario("card declined", "pm_card_declined", "CANCELLED", ("stock",), payment_method="pm_card_declined"),
    Scenario("undeliverable", "postal code 00000", "CANCELLED", ("stock", "payment"), postal_code="00000"),
    Scenario("slow card", "pm_card_timeout: times out twice", "CONFIRMED", payment_method="pm_card_timeout"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One order that was run. `disturbed`: other orders were placed meanwhile, so `cost` includes theirs."""

    workflow: str
    event_bus: str
    scenario: Scenario
    timeline: OrderTimeline
    cost: Cost
    undone: tuple[str, ...]
    broken: tuple[str, ...]
    disturbed: bool

    def as_dict(self) -> Json:
        """For machines."""
        timeline = self.timeline
        return {
            "workflow": self.workflow, "event_bus": self.event_bus, "scenario": self.scenario.name,
            "order_id": timeline.id, "status": timeline.order["status"], "reason": timeline.order.get("reason"),
            "undone": list(self.undone), "messages": timeline.messages, "deliveries": self.cost.deliveries,
            "aws_calls": self.cost.total, "aws_calls_by_operation": dict(self.cost.calls),
            "milliseconds": timeline.took, "promises_hold": not self.broken, "broken": list(self.broken),
            "disturbed": self.disturbed,
        }  # fmt: skip


def demo(
    workflow: WorkflowOption = None,
    bus: BusOption = None,
    scenario: Annotated[
        list[str] | None, typer.Option(**one_of(*(s.name for s in SCENARIOS), metavar="NAME", text="May be repeated."))
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run real orders through every workflow and watch each step. Starts the system if it isn't up.

    Each workflow takes five orders: one that succeeds, one that is out of stock, one with a declined card, one that
    can't be delivered, one with a slow card. A ✓ means that the payment provider's ledger, the carrier's ledger and
    the stock agree: charged and shipped once if confirmed, nothing left over if cancelled. Exit code 1 otherwise.

    \b
    orderflow demo                                        everything, under a minute
    orderflow demo --workflow orchestration
    orderflow demo --scenario undeliverable               one scenario, every workflow
    """
    console = Console(stderr=True, highlight=False) if as_json else common.console()
    began = time.monotonic()
    _bring_up(console)
    api = connect.connect()
    chosen = [s for s in SCENARIOS if not scenario or s.name in scenario]
    runs = list(_run_all(api, variants(workflow, bus), chosen, demo_view.Stage(console, quiet=as_json)))
    held = all(not run.broken for run in runs)
    if as_json:
        common.print_json({
            "promises_hold": held, "seconds": round(time.monotonic() - began, 1), "runs": [r.as_dict() for r in runs]
        })  # fmt: skip
    else:
        demo_view.summary(console, runs, time.monotonic() - began)
    if not held:
        raise typer.Exit(1)


def _bring_up(console: Console) -> None:
    """Starts the system unless it already answers. A running system keeps its settings."""
    try:
        connect.connect().text("order", "/healthz")
    except ApiProblem:
        system = runtime()
        if system.running:
            raise
        console.print("The system isn't up yet; starting it.\n")
        with lifecycle.progress(console) as report:
            system.up(report)
        console.print()


def _run_all(
    api: Api, variants: Sequence[tuple[str, str]], scenarios: list[Scenario], stage: demo_view.Stage
) -> Iterator[Run]:
    before = cost.settled(api)
    stocked = checks.stock(api)
    for workflow, bus in variants:
        stage.workflow(workflow, bus)
        for scenario in scenarios:
            run, before, stocked = _run(api, workflow, bus, scenario, before, stocked, stage)
            yield run


def _run(
    api: Api, workflow: str, bus: str, scenario: Scenario, before: Cost, stocked: Stock, stage: demo_view.Stage
) -> tuple[Run, Cost, Stock]:
    stage.scenario(scenario.name, scenario.what)
    items = {scenario.sku: scenario.quantity}
    body = basket(list(items.items()), scenario.payment_method, scenario.postal_code, workflow, bus)
    order_id = str(place(api, body)["id"])
    stage.follow(follow(api, order_id, every=0.04, limit=_LIMIT))
    after = cost.settled(api)
    timeline = settle(api, order_id, seconds=1.0)
    newest = api.get("order", "/orders", limit=1)["items"]
    disturbed = not newest or newest[0]["id"] != order_id
    left = checks.stock(api)
    stocks = None if disturbed else (stocked, left)
    broken = checks.broken(api, timeline, items, scenario.expected, scenario.owed, stocks)
    undone = checks.undone(api, order_id)
    run = Run(workflow, bus, scenario, timeline, after.since(before), undone, tuple(broken), disturbed)
    stage.result(run)
    return run, after, left
