"""Places orders. Checks prices and size, and stores the idempotency key, the order and its OrderPlaced message in one
transaction."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from orderflow import clock, idempotency, telemetry
from orderflow.contracts import Address, EventBus, Item, Money, OrderPlaced, OrderSnapshot, Workflow
from orderflow.database import Connection, Database
from orderflow.envelope import MAX_BYTES, Envelope, compose
from orderflow.errors import FieldError, Problem
from orderflow.idempotency import CLAIMED_AT, Key, Reply
from orderflow.messaging.outbox import Outbox
from orderflow.saga.audit_log import NewRecord
from orderflow.settings import Settings
from services.order import coordinator, domain, former_keys, models
from services.order.aggregate import Order
from services.order.domain import Product, Status
from services.order.queries import trace_of
from services.order.schemas import Amount, OrderAnswer, OrderRequest

log = structlog.get_logger(__name__)

HEADROOM: Final = 16 * 1024
"""Bytes by which later messages of an order may be larger than its first: the items once more, a task token, a reason.
"""

_PRICES_LIVE: Final = 5.0
"""Seconds for which products are cached."""


_FIND: Final = b"""
SELECT workflow, event_bus, amount, currency, traceparent, created_at FROM orders WHERE id = %s::uuid
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """The result of a request. `replayed`: an earlier request with the same key placed the order."""

    order_id: str
    reply: Reply
    replayed: bool


class Placing:
    """Places orders for one process."""

    def __init__(self, settings: Settings, database: Database, outbox: Outbox) -> None:
        self._settings = settings
        self._database = database
        self._outbox = outbox
        self._products: dict[str, Product] = {}
        self._read_at = float("-inf")

    def products(self) -> dict[str, Product]:
        """What is for sale, by SKU."""
        # No lock: while the database is unavailable, requests would wait for its timeout one after another.
        if time.monotonic() - self._read_at > _PRICES_LIVE:
            rows = self._database.query("SELECT sku, name, amount, currency FROM products ORDER BY sku")
            self._products = {row[0]: Product(*row) for row in rows}
            self._read_at = time.monotonic()
        return self._products

    def place(self, asked: OrderRequest, key: Key | None, raw_key: str = "") -> Placed:
        """Stores the order and its OrderPlaced message. A request with the same key and body gets the same answer.
        `raw_key` is the text of the header that carried the key.

        Raises Problem (422: the order can't be placed, or the key was used with another body; 503: the first request
        with the key has not ended yet) and Transient.
        """
        workflow, event_bus = self._route(asked)
        snapshot = self._snapshot(asked)
        traceparent = telemetry.new_trace()
        order = Order(
            clock.new_id(), workflow, event_bus, traceparent, clock.new_id(), clock.new_id(),
            set(), "", False, False, 0, 0.0, 0.0,
        )  # fmt: skip
        placed = _order_placed(order, snapshot)
        foreseen = _reply(order.id, workflow, event_bus, snapshot.total, traceparent, CLAIMED_AT)
        with self._outbox.transaction() as unit:
            claimed = None
            if key is not None:
                # One round trip serves both tables. The answer is stored with the claim, which saves a statement.
                claim = idempotency.claim(unit.connection, key, foreseen)
                former = former_keys.claim(unit.connection, raw_key, key, order.id)
                if (claimed := claim()) is None:
                    reply = idempotency.known(unit.connection, key)
                    return _earlier(unit.connection, json.loads(reply.body)["id"], reply)
                if (order_id := former()) is not None:
                    earlier = _earlier(unit.connection, order_id)
                    idempotency.store(unit.connection, key, earlier.reply)
                    return earlier
            telemetry.about_order(order.id, workflow.value)
            first_look = coordinator.first_look(order, self._settings)
            created = models.insert(unit.connection, order, asked.customer_id, snapshot, first_look)
            models.LOG.write(unit.connection, [NewRecord(order.id, "order", "event", "OrderPlaced", order.placed_id)])
            unit.stage([placed])
            # Both rows carry the transaction's time: with a key, there is no need to wait for another statement.
            accepted = Placed(order.id, foreseen.at(claimed or created()), replayed=False)
        log.info("order accepted", event_bus=event_bus.value, **placed.about)
        return accepted

    def _route(self, asked: OrderRequest) -> tuple[Workflow, EventBus]:
        settings = self._settings
        errors = [
            FieldError(f"/{name}", "an order can't choose it here; ALLOW_WORKFLOW_OVERRIDE=true allows that")
            for name, value in (("workflow", asked.workflow), ("event_bus", asked.event_bus))
            if value is not None and not settings.override_allowed
        ]
        workflow = asked.workflow or settings.workflow_mode
        if errors:
            raise Problem(422, "Invalid order", "the order can't run as requested", tuple(errors))
        return workflow, asked.event_bus or settings.event_bus

    def _snapshot(self, asked: OrderRequest) -> OrderSnapshot:
        try:
            amount, currency = domain.total([(line.sku, line.quantity) for line in asked.items], self.products())
        except (domain.UnknownSku, domain.MixedCurrencies) as error:
            wrong = FieldError(f"/items/{error.line}/sku", str(error))
            raise Problem(422, "Invalid order", "a line can't be ordered", (wrong,)) from None
        return OrderSnapshot(
            items=tuple(Item(sku=line.sku, quantity=line.quantity) for line in asked.items),
            total=Money(amount=amount, currency=currency),
            payment_method=asked.payment_method,
            address=Address(**asked.shipping_address.model_dump()),
        )


def _order_placed(order: Order, snapshot: OrderSnapshot) -> Envelope:
    envelope = compose(
        OrderPlaced(order=snapshot),
        source="order",
        order_id=order.id,
        workflow=order.workflow,
        event_bus=order.event_bus,
        message_id=order.placed_id,
        traceparent=order.traceparent,
    )
    if len(envelope.encode()) > MAX_BYTES - HEADROOM:
        raise Problem(413, "Order too large", f"as a message it is over {MAX_BYTES - HEADROOM} bytes; split the order")
    return envelope


def _earlier(connection: Connection, order_id: str, reply: Reply | None = None) -> Placed:
    """An order that an earlier request placed. If its `reply` is not given, it is built again."""
    [(workflow, event_bus, amount, currency, traceparent, created_at)] = connection.execute(
        _FIND, [order_id]
    ).fetchall()
    telemetry.about_order(order_id, workflow, traceparent)
    if reply is None:
        total = Money(amount=amount, currency=currency)
        reply = _reply(order_id, Workflow(workflow), EventBus(event_bus), total, traceparent, created_at)
    return Placed(order_id, reply, replayed=True)


def _reply(
    order_id: str, workflow: Workflow, event_bus: EventBus, total: Money, traceparent: str | None, created_at: datetime
) -> Reply:
    answer = OrderAnswer(
        id=order_id,
        status=Status.PLACED,
        workflow=workflow,
        event_bus=event_bus,
        total=Amount(amount=total.amount, currency=total.currency),
        **trace_of(traceparent),
        created_at=created_at,
        updated_at=created_at,
    )
    return Reply(202, answer.model_dump_json(), {"Location": f"/orders/{order_id}"})
