"""`orderflow dlq …`: the dead letters of all services; look at them, send them back, throw them away."""

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
    help="""Look after dead letters: messages that no try could handle, or that the broker refused to take.

    \b
    orderflow dlq list                                which there are, and why
    orderflow dlq show ID                             one of them, without anybody's data
    orderflow dlq redrive ID --why "handler mended"   back to its queue: it is handled as if it had just come
    orderflow dlq discard ID --why "forged"           gone; its order goes on, or is undone, without it

    A redrive is safe to repeat: a message that had its effect before is only answered. Find out why it failed first;
    what fails again comes back. Both are kept in the order's timeline, with who and why (operators).""",
    no_args_is_help=True,
)

_ROUNDS: Final = 1000
"""Requests that one command sends to a service at most."""

Service = Annotated[
    str | None, typer.Option("--service", "-s", **one_of(*SERVICES, metavar="SERVICE", text="Default: all."))
]
Order = Annotated[str | None, typer.Option("--order", help="Those of one order: its id, or `last`.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Of letters, or of the messages in them.")]
All = Annotated[bool, typer.Option("--all", help="All of --service, or of all services. Asks first.")]
Why = Annotated[str, typer.Option(help="Kept in the log and in the orders' timelines.")]
By = Annotated[str | None, typer.Option(help="Who does it.", show_default="your user name")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@app.command("list")
def list_letters(
    service: Service = None,
    order: Order = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Of each service.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List dead letters, oldest first: which message of which order, why, and since when.

    \b
    A letter lies in one of four places of its service:
      inventory-dlq                what inventory could not handle
      inventory-subscription-dlq   what SNS could not deliver to it
      inventory-rule-dlq           what EventBridge could not deliver to it
      inventory-outbox             what inventory has to say, and the broker refused to take
    """
    api = connect.connect()
    found = _look(api, service, limit=limit, order_id=connect.resolve(api, order) if order else None)
    if as_json:
        common.print_json(found)
    else:
        dlq.show_list(common.console(), found)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="Of a letter, or of the message in it.")],
    service: Service = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one dead letter: why it is one, what it asked for, of which order."""
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
    """Send dead letters back to their queue, once the cause is gone.

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
    """Throw dead letters away. There is no way back; what is known of them stays in the log and the timelines.

    \b
    orderflow dlq discard 01a20c9c-… --why "sent by a test"
    orderflow dlq discard --all --service inventory --why "forged"
    """
    _settle("discard", ids or [], service, order, everything, {"by": by or getpass.getuser(), "why": why}, yes, as_json)


def _look(api: Api, service: str | None, **query: object) -> Json:
    """The letters of one service or of all; `away` are those that did not answer, if others did."""
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
            "It must be clear which letters are meant.",
            "Give their ids, or --order ID, or --all; orderflow dlq list shows them.",
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
    """A request settles a part of many; never more than there were at first, because some may come back."""
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
    return RuntimeProblem(
        f"No dead letter with the id {', '.join(ids)}{where}.", "See which there are: orderflow dlq list"
    )
