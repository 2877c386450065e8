"""`orderflow saga …`: what the orchestrator knows about the orders that it coordinates."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import connect
from cli.options import JsonFlag, OrderId, one_of
from cli.views import common
from cli.views.watch import picture
from client.timeline import timeline_of

app = typer.Typer(help="Inspect the orchestrator's sagas. Orders under choreography have none.", no_args_is_help=True)


@app.command("list")
def list_sagas(
    stuck: Annotated[bool, typer.Option("--stuck", help="Only sagas that wait for an operator.")] = False,
    state: Annotated[
        str | None, typer.Option(**one_of("RUNNING", "COMPENSATING", "CONFIRMED", "CANCELLED", metavar="STATE"))
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue after the last order id of the previous page.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List sagas, newest first.

    \b
    orderflow saga list --stuck                 sagas that the orchestrator gave up on
    orderflow saga list --state COMPENSATING    sagas that are being compensated
    """
    page = connect.connect().get(
        "orchestrator", "/sagas", operator=True, stuck=stuck or None, state=state, limit=limit, cursor=cursor
    )
    if as_json:
        common.print_json(page)
        return
    console = common.console()
    if page["items"]:
        console.print(common.sagas(page["items"]))
    else:
        console.print("No saga is stuck." if stuck else "No such sagas.")
    if page["next_cursor"]:
        console.print(f"\n[dim]more: orderflow saga list --cursor {page['next_cursor']}[/]", soft_wrap=True)
    if stuck:
        console.print("\n[dim]Stuck orders of every workflow: orderflow order list --stuck[/]")


@app.command()
def show(order_id: OrderId, as_json: JsonFlag = False) -> None:
    """Show an order's saga: its state, its facts and its audit log."""
    api = connect.connect()
    saga = api.get("orchestrator", f"/sagas/{connect.resolve(api, order_id)}", operator=True)
    if as_json:
        common.print_json(saga)
        return
    console = common.console()
    state = "NEEDS_ATTENTION" if saga["needs_attention"] else saga["state"]
    rows = (
        ("order", saga["order_id"]),
        ("state", common.status(state)),
        ("reason", saga["reason"] or ""),
        ("workflow", saga["workflow"]),
        ("version", str(saga["version"])),
        ("facts", ", ".join(saga["facts"])),
        ("changed", common.ago(saga["updated_at"])),
    )
    console.print(common.facts(rows))
    console.print()
    # The audit log has the form of a timeline.
    order = {"id": saga["order_id"], "status": state, **{k: saga[k] for k in ("workflow", "reason", "created_at")}}
    trail = timeline_of(order, {"entries": saga["log"], "waiting_for": saga["waiting_for"]})
    console.print(picture(trail, console.width))
