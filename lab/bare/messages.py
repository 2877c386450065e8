"""The bare loop's messages: who sends what in response to what, and real envelopes with gaps for their ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from lab.workload import SNAPSHOT, Variant
from orderflow import clock
from orderflow import contracts as c
from orderflow.contracts import Message, Workflow, name_of
from orderflow.envelope import Envelope, compose
from orderflow.routing import Channel, Route, route
from orderflow.saga import PAYMENT, SHIPMENT, STEPS, STOCK

DECISION: Final = name_of(c.OrderConfirmed)
"""What the order service sends when an order has ended."""

_ID, _ORDER, _CAUSE = (f"00000000-0000-7000-8000-00000000000{i}" for i in range(3))
_GAP: Final = re.compile(f"({_ID}|{_ORDER}|{_CAUSE})")
_TRACEPARENT: Final = f"00-{'1' * 32}-{'2' * 16}-00"
_ANY_ID: Final = "01999999-9999-7999-8999-999999999999"

_WITH_SNAPSHOT: Final = {c.StockReserved, c.PaymentCharged}
_CONTENT: Final[Mapping[type[Message], Message]] = {
    c.OrderPlaced: c.OrderPlaced(order=SNAPSHOT),
    c.OrderPaid: c.OrderPaid(order=SNAPSHOT),
    c.ReserveStock: c.ReserveStock(items=SNAPSHOT.items),
    c.StockReserved: c.StockReserved(items=SNAPSHOT.items),
    c.ChargePayment: c.ChargePayment(amount=SNAPSHOT.total, payment_method=SNAPSHOT.payment_method),
    c.PaymentCharged: c.PaymentCharged(payment_id=f"ch_{_ANY_ID}", amount=SNAPSHOT.total),
    c.ScheduleShipment: c.ScheduleShipment(items=SNAPSHOT.items, address=SNAPSHOT.address),
    c.ShipmentScheduled: c.ShipmentScheduled(shipment_id=f"sh_{_ANY_ID}"),
    c.ConfirmOrder: c.ConfirmOrder(),
    c.OrderConfirmed: c.OrderConfirmed(),
}


@cache
def reactions(workflow: Workflow) -> Mapping[tuple[str, str], type[Message]]:
    """(service, short name of the message it receives) → what it sends. Other messages are only acknowledged."""
    does = {(step.service, name_of(step.command)): step.success for step in STEPS}
    confirms = {("order", name_of(c.ConfirmOrder)): c.OrderConfirmed}
    asked: list[type[Message]] = [c.OrderPlaced, *(step.success for step in STEPS)]
    asks: list[type[Message]] = [*(step.command for step in STEPS), c.ConfirmOrder]
    orchestrates = {("orchestrator", name_of(after)): then for after, then in zip(asked, asks, strict=True)}
    if workflow is Workflow.ORCHESTRATION:
        return {**does, **confirms, **orchestrates}
    if workflow is Workflow.STEP_FUNCTIONS:
        return {**does, **confirms}
    if workflow is Workflow.HYBRID:
        paid = ("orchestrator", name_of(PAYMENT.success))
        return {
            **{key: then for key, then in does.items() if key[0] != SHIPMENT.service},
            **{key: then for key, then in orchestrates.items() if key[1] != name_of(SHIPMENT.success)},
            paid: c.OrderPaid,
            (SHIPMENT.service, name_of(c.OrderPaid)): SHIPMENT.success,
            ("order", name_of(SHIPMENT.success)): c.OrderConfirmed,
        }
    return {
        (STOCK.service, name_of(c.OrderPlaced)): STOCK.success,
        (PAYMENT.service, name_of(STOCK.success)): PAYMENT.success,
        (SHIPMENT.service, name_of(PAYMENT.success)): SHIPMENT.success,
        ("order", name_of(SHIPMENT.success)): c.OrderConfirmed,
    }


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent. `token`: the token of the task that it answers, if it answers one."""

    channel: Channel
    target: str
    type: str
    workflow: str
    order_id: str
    body: str
    token: str | None = None


class Template:
    """One kind of message, encoded once: only the ids differ between messages."""

    def __init__(self, variant: Variant, model: type[Message], service: str) -> None:
        self.route: Route = route(variant.workflow, model)
        message = _CONTENT[model]
        if variant.workflow is Workflow.CHOREOGRAPHY and model in _WITH_SNAPSHOT:
            message = message.model_copy(update={"order": SNAPSHOT})
        envelope = compose(
            message,
            source=service,
            order_id=_ORDER,
            workflow=variant.workflow,
            event_bus=variant.event_bus,
            message_id=_ID,
            causation_id=None if model is c.OrderPlaced else _CAUSE,
            traceparent=_TRACEPARENT,
        )
        self._type = envelope.type
        self._variant = variant
        self._pieces = _GAP.split(_text(envelope, self.route.channel))

    def fill(self, order_id: str, cause: str, token: str | None = None) -> Outgoing:
        """The message for one order, with a new id."""
        ids = {_ID: clock.new_id(), _ORDER: order_id, _CAUSE: cause}
        over_bus = self.route.channel is Channel.BUS
        return Outgoing(
            self.route.channel,
            self._variant.event_bus.value if over_bus else "".join(self.route.listeners[:1]),
            self._type,
            self._variant.workflow.value,
            order_id,
            "".join([ids.get(piece, piece) for piece in self._pieces]),
            token,
        )


@cache
def template(variant: Variant, model: type[Message], service: str) -> Template:
    """The template of a message that `service` sends."""
    return Template(variant, model, service)


def _text(envelope: Envelope, channel: Channel) -> str:
    if channel not in (Channel.START, Channel.TOKEN):
        return envelope.encode()
    from orderflow.broker.aws.step_functions import execution_input, task_output
    from orderflow.settings import Settings

    if channel is Channel.TOKEN:
        return json.dumps(task_output(envelope), separators=(",", ":"))
    settings = Settings(aws_endpoint_url="http://127.0.0.1")
    return json.dumps(execution_input(envelope, settings), separators=(",", ":"))
