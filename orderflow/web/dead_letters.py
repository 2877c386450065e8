"""`/dlq`: lets operators list, redrive and discard a service's dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, Self

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from orderflow.contracts import Id
from orderflow.idempotency import Steps
from orderflow.messaging import dead_letters
from orderflow.messaging.dead_letters import Action, DeadLetters, Letter
from orderflow.service import Service
from orderflow.web.fields import Time
from orderflow.web.idempotency import in_steps
from orderflow.web.operations import Answer, operation
from orderflow.web.parsing import OperatorRequest, RequestModel, body, query

_Id = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]*$")]


class DlqQuery(RequestModel):
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    order_id: Id | None = None
    id: _Id | None = None
    """Of a dead letter, or of the message in it."""


_ONE_OF: Final[list[JsonValue]] = [
    {"required": ["ids"], "properties": {"ids": {"type": "array", "minItems": 1}}},
    {"required": ["order_id"], "properties": {"order_id": {"type": "string"}}},
    {"required": ["all"], "properties": {"all": {"const": True}}},
]
"""What `Settle` checks, as JSON Schema."""


class Settle(OperatorRequest):
    """Which dead letters: by `ids` (their own, or those of their messages), of one order, or all. Exactly one of the
    three.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_OF})

    ids: Annotated[tuple[_Id, ...], Field(max_length=100)] = ()
    order_id: Id | None = None
    all: bool = False

    @model_validator(mode="after")
    def _just_one(self) -> Self:
        if [bool(self.ids), self.order_id is not None, self.all].count(True) != 1:
            raise ValueError("give one of ids, order_id and all")
        return self

    def wants(self, letter: Letter) -> bool:
        """Whether a dead letter is selected."""
        return self.all or _is_of(letter, self.order_id) or bool(self.ids and _is_named(letter, self.ids))


class DeadLetterAnswer(BaseModel):
    """`id` is the dead letter's; the message's fields are null if it can't be read. `handler`: the command that this
    service makes of it. `receives`: how often it had been received when it was dead-lettered. `size` in bytes."""

    id: str
    queue: str
    reason: str
    at: Time
    receives: int | None
    size: int
    order_id: str | None
    message_id: str | None
    type: str | None
    handler: str | None
    workflow: str | None
    event_bus: str | None
    source: str | None
    sent_at: str | None
    resend: int | None
    causation_id: str | None
    trace_id: str | None
    data: dict[str, Any]


class QueueAnswer(BaseModel):
    name: str
    messages: int


class DlqAnswer(BaseModel):
    """`queues`: about how many dead letters each holds; `complete`: whether `items` are all that were requested."""

    items: list[DeadLetterAnswer]
    queues: list[QueueAnswer]
    complete: bool


class SettledLetter(BaseModel):
    id: str
    queue: str
    order_id: str | None
    message_id: str | None
    type: str | None


class SettledAnswer(BaseModel):
    """`missing`: ids that were not found. `left`: about how many dead letters the service still has."""

    settled: list[SettledLetter]
    missing: list[str]
    left: int


def blueprint(service: Service) -> Blueprint:
    """The dead letters of `service`: of its queue, its subscription and its rule, and in its outbox."""
    api = Blueprint("dlq", __name__)
    letters = DeadLetters(service.application, service.outbox, service.broker.dead_letters(service.name))

    @api.get("/dlq")
    @operation(
        "The dead letters of this service", query=DlqQuery, answers={200: DlqAnswer}, access="operator", slow=True
    )
    def look() -> Answer:
        asked = query(DlqQuery)

        def wanted(letter: Letter) -> bool:
            named = asked.id is None or _is_named(letter, (asked.id,))
            return named and (asked.order_id is None or _is_of(letter, asked.order_id))

        found, complete = letters.look(wanted, asked.limit)
        return DlqAnswer(
            items=[_answer(letter) for letter in found],
            queues=[QueueAnswer(name=name, messages=n) for name, n in letters.depths().items()],
            complete=complete,
        )

    @api.post("/dlq/redrive")
    @operation(
        f"Sends dead letters to where they should have gone, up to {dead_letters.MOST} at once",
        body=Settle,
        answers={200: SettledAnswer},
        access="operator",
        slow=True,
        idempotent="key",
    )
    def redrive() -> Answer:
        return settle("redriven")

    @api.post("/dlq/discard")
    @operation(
        f"Throws dead letters away, up to {dead_letters.MOST} at once",
        body=Settle,
        answers={200: SettledAnswer},
        access="operator",
        slow=True,
        idempotent="key",
    )
    def discard() -> Answer:
        return settle("discarded")

    def settle(action: Action) -> Answer:
        asked = body(Settle)

        def act(steps: Steps | None) -> Answer:
            done = letters.settle(action, asked.wants, asked.by, asked.why, steps)
            named = {value for letter in done for value in (letter.id, letter.message_id)}
            return SettledAnswer(
                settled=[SettledLetter(**asdict(letter)) for letter in done],
                missing=[i for i in asked.ids if i not in named],
                left=sum(letters.depths().values()),
            )

        return in_steps(service.outbox, asked, act)

    return api


def _is_named(letter: Letter, ids: tuple[str, ...]) -> bool:
    return letter.dead.id in ids or letter.message_id in ids


def _is_of(letter: Letter, order_id: str | None) -> bool:
    return order_id is not None and letter.order_id == order_id


def _answer(letter: Letter) -> DeadLetterAnswer:
    dead, envelope = letter.dead, letter.envelope
    return DeadLetterAnswer(
        id=dead.id,
        queue=dead.queue,
        reason=letter.reason,
        at=dead.at,
        receives=dead.receives,
        size=len(dead.body.encode("utf-8", "replace")),
        order_id=letter.order_id,
        message_id=letter.message_id,
        type=envelope and envelope.name,
        handler=letter.handler,
        workflow=envelope and envelope.workflow.value,
        event_bus=envelope and envelope.eventbus.value,
        source=envelope and envelope.source,
        sent_at=envelope and envelope.time,
        resend=envelope and envelope.resend,
        causation_id=envelope and envelope.causationid,
        trace_id=envelope and envelope.about.get("trace_id"),
        data=letter.data,
    )
