"""`orderflow dlq …`: list, show, redrive and discard the dead-lettered messages of all services."""

from __future__ import annotations

import getpass
from typing import Annotated, Final

import typer

from cli import connect
from cli.options import JsonFlag, one_of
from cli.views import common, dlq
from client.api import Api, ApiProblem, Json
from orderflow.routing import SERVICES
from runtime import RuntimeProblem

app = typer.Typer(
    help="""Manage dead letters: messages that failed every attempt, or that the broker refused.

    \b
    orderflow dlq list                                every dead letter, and why it is one
    orderflow dlq show ID                             one of them, without personal data
    orderflow dlq redrive ID --why "handler fixed"    back to its queue: it is handled like a new message
    orderflow dlq discard ID --why "forged"           deleted; its order continues, or is compensated, without it

    A redrive is safe to repeat: a message that already had its effect is answered without a second one. Find out first
    why it failed; a message that fails again is dead-lettered again. The order's timeline records each redrive and
    discard, with who and why (operators).""",
    no_args_is_help=True,
)

_ROUNDS: Final = 1000
"""The most requests that one command sends to a service."""

Service = Annotated[
    str | None, typer.Option("--service", "-s", **one_of(*SERVICES, metavar="SERVICE", text="Default: all."))
]
Order = Annotated[str | None, typer.Option("--order", help="Only those of one order: its id, or `last`.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of dead letters, or of the messages in them.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of --service, or of all services. Asks first.")]
Why = Annotated[str, typer.Option(help="The reason; recorded in the log and in the orders' timelines.")]
By = Annotated[str | None, typer.Option(help="Who does it.", show_default="your user name")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@app.command("list")
def list_letters(
    service: Service = None,
    order: Order = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Of each service.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List dead letters, oldest first: the message, its order, why it failed, and since when.

    \b
    Each service has four places for dead letters. Those of inventory:
    inventory-dlq                messages that inventory could not handle
    inventory-subscription-dlq   events that SNS could not deliver to it
    inventory-rule-dlq           events that EventBridge could not deliver to it
    inventory-outbox             messages of inventory that the broker refused
    """
    api = connect.connect()
    found = _look(api, service, limit=limit, order_id=connect.resolve(api, order) if order else None)
    if as_json:
        common.print_json(found)
    else:
        dlq.show_list(common.console(), found)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="Id of a dead letter, or of the message in it.")],
    service: Service = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one dead letter: why it failed, what it asked for, and its order."""
    found = _look(connect.connect(), service, id=letter)
    if not found["items"]:
        raise _not_found([letter], found["away"])
    if as_json:
        common.print_json(found["items"])
        return
    console = common.console()
    for one in found["items"]:
        console.print(dlq.facts(one), soft_wrap=True)


@app.command()
def redrive(
    why: Why,
    ids: Ids = None,
    service: Service = None,
    order: Order = None,
    everything: All = False,
    by: By = None,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Send dead letters back to their queue, once the cause is fixed.

    \b
    orderflow dlq redrive 01a20c9c-… --why "deployed the fix"
    orderflow dlq redrive --order last --why "the carrier is back"
    orderflow dlq redrive --all --service payment --why "deployed the fix"
    """
    _settle("redrive", ids or [], service, order, everything, {"by": by or getpass.getuser(), "why": why}, yes, as_json)


@app.command()
def discard(
    why: Why,
    ids: Ids = None,
    service: Service = None,
    order: Order = None,
    everything: All = False,
    by: By = None,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete dead letters for good. The log and the timelines keep a record of them.

    \b
    orderflow dlq discard 01a20c9c-… --why "sent by a test"
    orderflow dlq discard --all --service inventory --why "forged"
    """
    _settle("discard", ids or [], service, order, everything, {"by": by or getpass.getuser(), "why": why}, yes, as_json)


def _look(api: Api, service: str | None, **query: object) -> Json:
    """The dead letters of one service or of all; `away` names the services that did not answer, if others did."""
    items: list[Json] = []
    queues: list[Json] = []
    away: list[str] = []
    complete = True
    for name in [service] if service else SERVICES:
        try:
            found = api.get(name, "/dlq", operator=True, **query)
        except ApiProblem as problem:
            if service or problem.status not in (0, 503):
                raise
            away.append(name)
            if len(away) == len(SERVICES):
                raise
            continue
        items += [{"service": name, **letter} for letter in found["items"]]
        queues += found["queues"]
        complete = complete and found["complete"]
    items.sort(key=lambda letter: str(letter["at"]))
    return {"items": items, "queues": queues, "complete": complete and not away, "away": away}


def _settle(
    action: str, ids: list[str], service: str | None, order: str | None, everything: bool, who: Json, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    if [bool(ids), bool(order), everything].count(True) != 1:
        raise RuntimeProblem(
            "Name the dead letters that are meant.",
            "Give their ids, --order ID, or --all; orderflow dlq list shows them.",
        )
    api = connect.connect()
    chosen: Json = {"ids": ids} if ids else {"order_id": connect.resolve(api, order)} if order else {"all": True}
    services = [service] if service else list(SERVICES)
    expected = {}
    if everything:
        expected = {name: _depth(api, name) for name in services}
        services = [name for name in services if expected[name]]
        if services and not yes:
            where = ", ".join(f"{name} ({expected[name]})" for name in services)
            typer.confirm(f"{action.capitalize()} all dead letters of {where}?", abort=True, err=True)
    settled: list[Json] = []
    for name in services:
        settled += _of_service(api, name, action, chosen | who, expected.get(name, 0))
    known = {letter[key] for letter in settled for key in ("id", "message_id")}
    missing = [i for i in ids if i not in known]
    if as_json:
        common.print_json({"settled": settled, "missing": missing})
    else:
        dlq.show_settled(common.console(), action, settled)
    if missing:
        raise _not_found(missing, [])


def _of_service(api: Api, service: str, action: str, body: Json, expected: int) -> list[Json]:
    """Settles many dead letters in several requests; never more than there were at first, because some may return."""
    settled: list[Json] = []
    for _ in range(_ROUNDS):
        answer = api.post(service, f"/dlq/{action}", body, operator=True)
        settled += [{"service": service, **letter} for letter in answer["settled"]]
        if not answer["settled"] or not answer["left"] or len(settled) >= expected:
            break
    return settled


def _depth(api: Api, service: str) -> int:
    return sum(queue["messages"] for queue in api.get(service, "/dlq", operator=True, limit=1)["queues"])


def _not_found(ids: list[str], away: list[str]) -> RuntimeProblem:
    where = f" ({', '.join(away)} did not answer)" if away else ""
    return RuntimeProblem(f"No dead letter with the id {', '.join(ids)}{where}.", "List them: orderflow dlq list")
