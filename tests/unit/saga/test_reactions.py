"""Choreography's reactions and the rules of the test providers: pure functions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from orderflow import contracts as c
from orderflow.errors import Rejected
from orderflow.routing import heard_by
from services.inventory import domain as stock
from services.inventory.reactions import react as inventory
from services.payment import domain as cards
from services.payment.reactions import react as payment
from services.shipping import domain as addresses
from services.shipping.reactions import react as shipping

REACT = {"inventory": inventory, "payment": payment, "shipping": shipping}
ITEMS = (c.Item(sku="BOOK-1", quantity=2),)
ADDRESS = c.Address(name="Ada", line1="1 Main St", city="Berlin", postal_code="10115", country="DE")
PRICE = c.Money(amount=3998, currency="EUR")
ORDER = c.OrderSnapshot(items=ITEMS, total=PRICE, payment_method="pm_card_visa", address=ADDRESS)
CHARGED = c.PaymentCharged(payment_id="ch_1", amount=PRICE, order=ORDER)
CHARGE = c.ChargePayment(amount=PRICE, payment_method="pm_card_visa")
CANCEL = c.OrderCancellationRequested()


@pytest.mark.parametrize(
    ("service", "message", "command"),
    [
        ("inventory", c.OrderPlaced(order=ORDER), c.ReserveStock(items=ITEMS)),
        ("inventory", c.PaymentDeclined(), c.ReleaseStock()),
        ("inventory", c.ShipmentRejected(), c.ReleaseStock()),
        ("inventory", CANCEL, c.ReleaseStock()),
        ("payment", c.StockReserved(items=ITEMS, order=ORDER), CHARGE),
        ("payment", c.ShipmentRejected(), c.RefundPayment()),
        ("payment", CANCEL, c.RefundPayment()),
        ("shipping", CHARGED, c.ScheduleShipment(items=ITEMS, address=ADDRESS)),
        ("shipping", c.OrderPaid(order=ORDER), c.ScheduleShipment(items=ITEMS, address=ADDRESS)),
        ("shipping", CANCEL, c.CancelShipment()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, c.Message) else value,
)  # fmt: skip
def test_an_event_becomes_the_own_command(service: str, message: c.Message, command: c.Message) -> None:
    """The command takes from the event what it needs, and no more."""
    assert REACT[service](message) == command


@pytest.mark.parametrize("service", REACT)
def test_own_commands_pass_and_all_else_is_nobodys_business(service: str) -> None:
    """A coordinator's command goes through as it is; a service knows no other's."""
    own = {
        "inventory": [c.ReserveStock(items=ITEMS), c.ReleaseStock()],
        "payment": [c.ChargePayment(amount=PRICE, payment_method="x"), c.RefundPayment()],
        "shipping": [c.ScheduleShipment(items=ITEMS, address=ADDRESS), c.CancelShipment()],
    }
    for of, commands in own.items():
        for command in commands:
            assert REACT[service](command) == (command if of == service else None)
    for message in (c.ConfirmOrder(), c.OrderConfirmed(), c.StockReleased(), c.ShipmentScheduled(shipment_id="x")):
        assert REACT[service](message) is None


@pytest.mark.parametrize("service", REACT)
def test_every_event_that_is_routed_here_has_a_reaction(service: str) -> None:
    """The routing table and the reactions agree."""
    examples: dict[str, c.Message] = {
        "OrderPlaced": c.OrderPlaced(order=ORDER),
        "OrderPaid": c.OrderPaid(order=ORDER),
        "StockReserved": c.StockReserved(items=ITEMS, order=ORDER),
        "PaymentCharged": CHARGED,
        "PaymentDeclined": c.PaymentDeclined(),
        "ShipmentRejected": c.ShipmentRejected(),
        "OrderCancellationRequested": CANCEL,
    }
    for names in heard_by(service).values():
        for name in names:
            assert REACT[service](examples[name]) is not None, name


@pytest.mark.parametrize(
    ("react", "message"),
    [(payment, c.StockReserved(items=ITEMS)), (shipping, c.PaymentCharged(payment_id="ch_1", amount=PRICE))],
)
def test_an_event_without_its_order_is_dead_lettered(react: object, message: c.Message) -> None:
    """It can never be handled, so it must not be tried for ever."""
    with pytest.raises(Rejected, match="came without its order"):
        react(message)  # type: ignore[operator]


def test_cards() -> None:
    """Only the good card and the one that loses answers are charged; a refusal never repeats the card."""
    assert cards.refusal("pm_card_visa") is cards.refusal("pm_card_timeout") is None
    assert cards.refusal("pm_card_declined") == "card declined"
    assert cards.refusal("4242424242424242") == "unknown payment method"
    assert [cards.loses_answers(m) for m in ("pm_card_visa", "pm_card_timeout", "x")] == [False, True, False]


def test_addresses() -> None:
    """One postal code is undeliverable, one is slow but within the timeout."""
    assert addresses.refusal("00000") == "undeliverable address"
    assert addresses.refusal("10115") is addresses.refusal("99999") is None
    assert addresses.seconds_to_book("10115", 2) == 0
    assert addresses.seconds_to_book("99999", 2) == 1
    assert addresses.seconds_to_book("99999", 0.5) < 0.5


def test_stock_is_decided_in_the_order_of_arrival() -> None:
    """All lines or none; what an earlier order takes, a later one can't have."""
    orders = [{"A": 6, "B": 1}, {"A": 5}, {"A": 4}, {"C": 1}]
    verdicts, taken = stock.decide(orders, {"A": 10, "B": 1})
    assert verdicts == [[], ["A"], [], ["C"]]
    assert taken == {"A": 10, "B": 1}
    assert stock.total([("A", 2), ("B", 1), ("A", 3)]) == {"A": 5, "B": 1}


@pytest.mark.parametrize("service", REACT)
def test_domain_rules_need_the_standard_library_only(service: str) -> None:
    """So they can be read, and tested, by themselves."""
    tree = ast.parse(Path(f"services/{service}/domain.py").read_text())
    found = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {str(name).partition(".")[0] for name in found} <= sys.stdlib_module_names
