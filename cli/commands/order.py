"""`orderflow order …`: place an order, watch it, compare workflows, list, show, cancel and retry orders."""

from __future__ import annotations

import getpass
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Final

import typer

from cli import connect
from cli.commands import trace
from cli.commands.retrying import pages
from cli.options import BusOption, JsonFlag, OrderId, WorkflowOption, one_of
from cli.views import common
from cli.views import compare as compare_view
from cli.views import retry as retry_view
from cli.views import watch as watch_view
from client.api import Api, ApiProblem, Json
from client.compare import compare
from client.order_bodies import CUSTOMER, basket
from client.timeline import follow, look, place, settle
from runtime import RuntimeProblem

app = typer.Typer(help="Place and manage orders.", no_args_is_help=True)

_STATUSES: Final = ("PLACED", "STOCK_RESERVED", "PAID", "CONFIRMED", "CANCELLING", "CANCELLED", "NEEDS_ATTENTION")


@app.command("place")
def place_order(
    sku: Annotated[str | None, typer.Option(help="What to order.", show_default="BOOK-1")] = None,
    quantity: Annotated[int, typer.Option("--quantity", "-q", min=1, help="How many pieces of --sku.")] = 1,
    item: Annotated[
        list[str] | None, typer.Option(metavar="SKU:N", help="One line of the order; may be repeated.")
    ] = None,
    payment_method: Annotated[
        str, typer.Option("--payment-method", "-p", help="pm_card_visa, pm_card_declined or pm_card_timeout (slow).")
    ] = "pm_card_visa",
    postal_code: Annotated[str, typer.Option(help="00000 is undeliverable; 99999 has a slow carrier.")] = "10115",
    customer: Annotated[str, typer.Option(help="The customer's id.")] = CUSTOMER,
    workflow: WorkflowOption = None,
    bus: BusOption = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: repeating the command with the same key places one order only.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the order move through the services.")] = False,
    comparing: Annotated[
        bool, typer.Option("--compare", help="Place it once per workflow and bus, and show them side by side.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Place an order. Without options: one BOOK-1, paid with a card that works.

    \b
    orderflow order place --watch                       see every message
    orderflow order place --watch --sku SOLDOUT-1       out of stock
    orderflow order place --watch -p pm_card_declined   declined: the stock is released
    orderflow order place --watch --postal-code 00000   undeliverable: everything is compensated
    orderflow order place --item BOOK-1:2 --item MUG-1:1
    orderflow order place --compare                     under every workflow
    """
    if watch and comparing:
        raise RuntimeProblem("--watch shows one order, --compare one per workflow.", "Give one of the two.")
    if comparing and key:
        raise RuntimeProblem("--compare places several orders; they can't share one key.", "Leave out --key.")
    lines = _lines(sku, quantity, item or [])
    api = connect.connect()
    body = basket(lines, payment_method, postal_code, workflow, bus, customer)
    console = common.console()
    if comparing:

        def during(name: str, event_bus: str) -> AbstractContextManager[object]:
            told = console.is_terminal and not as_json
            return console.status(f"{common.mode(name, event_bus)} …") if told else nullcontext()

        found = compare(api, body, workflow, bus, during)
        common.print_json([one.as_dict() for one in found]) if as_json else compare_view.show(console, found)
        return
    order = place(api, body, key)
    if as_json:
        if watch:
            for _ in follow(api, order["id"]):
                pass
            _print_timeline(api, order["id"])
        else:
            common.print_json(order | {"trace_url": api.trace_url(order)})
        return
    console.print(common.order_facts(order, api), soft_wrap=True)
    console.print()
    if watch:
        watch_view.watch(console, follow(api, order["id"]))
    else:
        console.print("See its progress: [bold]orderflow order timeline last[/]")


@app.command("list")
def list_orders(
    status: Annotated[str | None, typer.Option(**one_of(*_STATUSES, metavar="STATUS"))] = None,
    workflow: WorkflowOption = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only orders that need an operator.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue after the last id of the previous page.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List orders, newest first.

    \b
    orderflow order list --stuck    orders of every workflow that wait for an operator or are past every deadline
    """
    page = connect.connect().get(
        "order", "/orders", status=status, workflow=workflow, customer_id=customer, stuck=stuck or None, limit=limit,
        cursor=cursor,
    )  # fmt: skip
    if as_json:
        common.print_json(page)
        return
    console = common.console()
    if not page["items"]:
        console.print("No order is stuck." if stuck else "No such orders. Place one: orderflow order place")
        return
    console.print(common.orders(page["items"]))
    if page["next_cursor"]:
        console.print(f"\n[dim]more: orderflow order list --cursor {page['next_cursor']}[/]", soft_wrap=True)
    if stuck:
        console.print(
            "\n[dim]Why: orderflow order timeline <id>; once it is fixed: orderflow order retry <id>, or --all[/]"
        )


@app.command()
def show(order_id: OrderId, as_json: JsonFlag = False) -> None:
    """Show an order, and what each service has done for it."""
    api = connect.connect()
    order_id = connect.resolve(api, order_id)
    order = api.get("order", f"/orders/{order_id}")
    parts = {
        "stock": _part(api, "inventory", f"/reservations/{order_id}"),
        "payment": _part(api, "payment", f"/payments/{order_id}"),
        "shipment": _part(api, "shipping", f"/shipments/{order_id}"),
    }
    if as_json:
        common.print_json(order | parts | {"trace_url": api.trace_url(order)})
        return
    more = [("placed", common.ago(order["created_at"]))] + [(name, _said(part)) for name, part in parts.items()]
    common.console().print(common.order_facts(order, api, more), soft_wrap=True)


@app.command()
def timeline(order_id: OrderId, as_json: JsonFlag = False) -> None:
    """Show what happened to an order, message by message, and what it waits for."""
    api = connect.connect()
    order_id = connect.resolve(api, order_id)
    if as_json:
        _print_timeline(api, order_id)
        return
    console = common.console()
    console.print(watch_view.picture(look(api, order_id), console.width))


@app.command()
def watch(order_id: OrderId) -> None:
    """Watch an order move until it is confirmed, cancelled, or needs attention."""
    api = connect.connect()
    watch_view.watch(common.console(), follow(api, connect.resolve(api, order_id)))


@app.command()
def cancel(
    order_id: OrderId,
    reason: Annotated[str, typer.Option(help="The reason; stored with the order.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Cancel an order that isn't confirmed yet. Completed steps are compensated."""
    api = connect.connect()
    order_id = connect.resolve(api, order_id)
    _print_order(api, api.post("order", f"/orders/{order_id}/cancel", {"reason": reason} if reason else {}), as_json)


@app.command()
def retry(
    why: Annotated[str, typer.Option(help="The reason; recorded in each order's timeline.")],
    order_id: Annotated[str | None, typer.Argument(metavar="ID", help="The order's id, or `last`.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All orders that need attention, or those that the filters select.")
    ] = False,
    workflow: WorkflowOption = None,
    reason: Annotated[str | None, typer.Option(help="With --all: only orders whose reason contains this text.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="With --all: only orders that have not changed for this many seconds.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who asks.", show_default="your user name")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Continue an order that NEEDS_ATTENTION, or all of them (operators).

    \b
    orderflow order retry last --why "the carrier is back"
    orderflow order retry --all --why "the provider is back"
    orderflow order retry --all --workflow hybrid --reason "no answer" --why "deployed the fix"
    """
    filters = {"workflow": workflow, "reason": reason, "older_than": older_than}
    chosen = {name: value for name, value in filters.items() if value is not None}
    if (order_id is not None) == everything or (chosen and not everything):
        raise RuntimeProblem(
            "Name the orders that are meant.", "Give one order's id, or --all, with or without filters."
        )
    api = connect.connect()
    body = {"by": by or getpass.getuser(), "why": why}
    if order_id is not None:
        order_id = connect.resolve(api, order_id)
        _print_order(api, api.post("order", f"/orders/{order_id}/retry", body, operator=True), as_json)
    elif as_json:
        found = list(pages(api, body | chosen))
        common.print_json({name: sum(page[name] for page in found) for name in ("retried", "skipped")})
    else:
        retry_view.show(common.console(), pages(api, body | chosen))


app.command("trace")(trace.show)


def _lines(sku: str | None, quantity: int, items: list[str]) -> list[tuple[str, int]]:
    lines = [(sku or "BOOK-1", quantity)] if sku or not items else []
    for text in items:
        name, _, number = text.rpartition(":")
        if not name or not number.isascii() or not number.isdigit():
            raise RuntimeProblem(f"--item {text!r} is not SKU:quantity.", "Write it like --item BOOK-1:2")
        lines.append((name, int(number)))
    return lines


def _part(api: Api, service: str, path: str) -> Json | None:
    try:
        return api.find(service, path)
    except ApiProblem as problem:
        return {"state": "unknown", "reason": problem.what.splitlines()[0]}


def _said(part: Json | None) -> str:
    if part is None:
        return "nothing"
    more: list[Any] = [part.get("payment_id") or part.get("shipment_id"), part.get("reason")]
    more.append(f"refunded {common.money(part['refunded'])}" if part.get("refunded") else "")
    said = ", ".join(str(m) for m in more if m)
    return f"{part['state']}{f' ({said})' if said else ''}"


def _print_order(api: Api, order: Json, as_json: bool) -> None:
    if as_json:
        common.print_json(order)
    else:
        common.console().print(common.order_facts(order, api), soft_wrap=True)


def _print_timeline(api: Api, order_id: str) -> None:
    timeline = settle(api, order_id, seconds=1.0)
    common.print_json({
        "order": timeline.order, "timeline": api.get("order", f"/orders/{order_id}/timeline"),
        "milliseconds": timeline.took, "messages": timeline.messages, "undone": list(timeline.undone),
    })  # fmt: skip
