"""The pages of inventory, payment and shipping, over their real databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from orderflow import clock
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import (
    Address,
    ChargePayment,
    Item,
    Message,
    Money,
    RefundPayment,
    ReserveStock,
    ScheduleShipment,
)
from orderflow.messaging.guard import Done
from orderflow.providers import Refused, Success, Voided
from orderflow.service import Service
from orderflow.settings import Settings
from orderflow.web import create_app
from services.inventory import main as inventory
from services.payment import main as payment
from services.shipping import main as shipping
from tests.support.provider_process import ask

NewDatabase = Callable[[str | None], str]
ADDRESS = Address(name="Ada Lovelace", line1="1 Main St", city="Berlin", postal_code="10115", country="DE")
ITEMS = (Item(sku="BOOK-1", quantity=2),)


class Site:
    """One service without its threads: messages go in by `handle`, pages come out by `get`, `post` and `put`."""

    def __init__(self, module: ModuleType, service: Service) -> None:
        self.service = service
        self.client: FlaskClient = create_app(service, [module.blueprint(service)]).test_client()

    def handle(self, message: Message, order_id: str) -> None:
        [verdict] = self.service.processor.process([ask(message, order_id)])
        assert isinstance(verdict if isinstance(verdict, Done) else verdict.result(10), Done)  # type: ignore[union-attr]

    def get(self, path: str) -> tuple[int, dict]:
        answer = self.client.get(path)
        return answer.status_code, answer.get_json()

    def send(self, method: str, path: str, body: object) -> tuple[int, dict]:
        answer = self.client.open(path, method=method, json=body)
        return answer.status_code, answer.get_json()


def settings(url: str, providers_url: str = "") -> Settings:
    return Settings(
        aws_endpoint_url="http://localhost:1",
        database_url=SecretStr(url),
        providers_database_url=SecretStr(providers_url),
    )


def site(module: ModuleType, service: Service) -> Iterator[Site]:
    service.database.open()
    yield Site(module, service)
    service.stop()


@pytest.fixture(scope="module")
def stock(new_database: NewDatabase) -> Iterator[Site]:
    yield from site(inventory, inventory.build(settings(new_database("inventory")), MemoryBroker()))


@pytest.fixture(scope="module")
def providers_url(new_database: NewDatabase) -> str:
    return new_database(None)


@pytest.fixture(scope="module")
def payments(new_database: NewDatabase, providers_url: str) -> Iterator[Site]:
    yield from site(payment, payment.build(settings(new_database("payment"), providers_url), MemoryBroker()))


@pytest.fixture(scope="module")
def shipments(new_database: NewDatabase, providers_url: str) -> Iterator[Site]:
    yield from site(shipping, shipping.build(settings(new_database("shipping"), providers_url), MemoryBroker()))


class TestInventory:
    def test_stock_at_the_start(self, stock: Site) -> None:
        """All SKUs, sorted, and each by itself."""
        status, answer = stock.get("/stock")
        assert status == 200
        assert [item["sku"] for item in answer["items"]] == ["BOOK-1", "LAMP-1", "MUG-1", "RARE-1", "SOLDOUT-1"]
        assert stock.get("/stock/LAMP-1") == (200, {"sku": "LAMP-1", "available": 100_000, "reserved": 0})

    def test_a_reservation(self, stock: Site) -> None:
        """Its pieces, state and times; and the stock has moved."""
        order_id = clock.new_id()
        stock.handle(ReserveStock(items=ITEMS), order_id)
        status, answer = stock.get(f"/reservations/{order_id}")
        assert (status, answer["state"], answer["items"]) == (200, "reserved", [{"sku": "BOOK-1", "quantity": 2}])
        assert answer["created_at"].endswith("Z")
        assert stock.get("/stock/BOOK-1") == (200, {"sku": "BOOK-1", "available": 99_998, "reserved": 2})

    def test_restock(self, stock: Site) -> None:
        """Adds pieces; refuses what isn't a quantity, an unknown SKU, and more than the columns hold."""
        assert stock.send("POST", "/stock/RARE-1/restock", {"quantity": 5})[1]["available"] == 105
        for wrong in (
            {"quantity": 0},
            {"quantity": -1},
            {"quantity": "5"},
            {"quantity": 1.5},
            {},
            {"quantity": 1, "x": 1},
        ):
            assert stock.send("POST", "/stock/RARE-1/restock", wrong)[0] == 422
        assert stock.send("POST", "/stock/NO-SUCH/restock", {"quantity": 5})[0] == 404
        stock.service.database.query("UPDATE stock SET available = 1999999999 WHERE sku = 'MUG-1'")
        assert stock.send("POST", "/stock/MUG-1/restock", {"quantity": 1})[0] == 200
        assert stock.send("POST", "/stock/MUG-1/restock", {"quantity": 1})[0] == 409

    @pytest.mark.parametrize("path", ["/stock/NO-SUCH", "/stock/a b", "/reservations/{}", "/reservations/x"])
    def test_what_is_not_there(self, stock: Site, path: str) -> None:
        """404, malformed or unknown."""
        assert stock.get(path.format(clock.new_id()))[0] == 404


class TestPayment:
    def test_a_payment(self, payments: Site) -> None:
        """What was charged and given back, and nothing of the card."""
        order_id = clock.new_id()
        price = Money(amount=3998, currency="EUR")
        payments.handle(ChargePayment(amount=price, payment_method="pm_card_visa"), order_id)
        status, answer = payments.get(f"/payments/{order_id}")
        assert (status, answer["state"], answer["amount"]) == (200, "done", {"amount": 3998, "currency": "EUR"})
        assert answer["refunded"] is None
        assert "pm_card" not in str(answer)
        _, ledger = payments.get(f"/simulator/ledger?order_id={order_id}")
        [entry] = ledger["items"]
        assert entry | {"at": ""} == {
            "id": answer["payment_id"], "order_id": order_id, "kind": "charge", "at": "",
            "amount": {"amount": 3998, "currency": "EUR"}, "idempotency_key": f"{order_id}:charge",
        }  # fmt: skip
        payments.handle(RefundPayment(), order_id)
        assert payments.get(f"/payments/{order_id}")[1]["refunded"] == {"amount": 3998, "currency": "EUR"}
        _, ledger = payments.get(f"/simulator/ledger?order_id={order_id}")
        assert [item["kind"] for item in ledger["items"]] == ["refund", "charge"]

    @pytest.mark.parametrize("path", ["/payments/{}", "/payments/x", "/payments/%00"])
    def test_what_is_not_there(self, payments: Site, path: str) -> None:
        """404, malformed or unknown."""
        assert payments.get(path.format(clock.new_id()))[0] == 404

    def test_the_ledgers_query_is_checked(self, payments: Site) -> None:
        """A malformed id is 422; an unknown order did nothing."""
        assert payments.get("/simulator/ledger?order_id=x")[0] == 422
        assert payments.get("/simulator/ledger?limit=0")[0] == 422
        assert payments.get(f"/simulator/ledger?order_id={clock.new_id()}") == (200, {"items": []})

    def test_faults(self, payments: Site, shipments: Site) -> None:
        """Set, read back, of this provider only, and off again."""
        off = {"error_rate": 0.0, "latency": 0.0, "outage": False}
        assert payments.get("/simulator/faults") == (200, off)
        some = {"error_rate": 0.05, "latency": 2.0, "outage": True}
        assert payments.send("PUT", "/simulator/faults", some) == (200, some)
        assert payments.get("/simulator/faults") == (200, some)
        assert shipments.get("/simulator/faults") == (200, off)
        for wrong in ({"error_rate": 1.1}, {"error_rate": -1}, {"latency": 61}, {"outage": 1}, {"other": 1}):
            assert payments.send("PUT", "/simulator/faults", wrong)[0] == 422
        assert payments.send("PUT", "/simulator/faults", {}) == (200, off)

    def test_a_real_provider_has_no_simulator(self, new_database: NewDatabase) -> None:
        """Its pages are not there, and its database isn't needed."""
        service = payment.build(settings(new_database("payment")), MemoryBroker(), Real())
        for real in site(payment, service):
            order_id = clock.new_id()
            real.handle(ChargePayment(amount=Money(amount=1, currency="EUR"), payment_method="tok"), order_id)
            assert real.get(f"/payments/{order_id}")[1]["payment_id"] == "real-1"
            assert real.get("/simulator/ledger")[0] == real.get("/simulator/faults")[0] == 404


class Real:
    """As an adapter of a real provider would be."""

    def charge(self, key: str, order_id: str, amount: int, currency: str, payment_method: str) -> Success | Refused:
        return Success("real-1")

    def void(self, key: str, order_id: str) -> Voided:
        return Voided()

    def lookup(self, key: str) -> Success | None:
        return None

    def close(self) -> None:
        pass


class TestShipping:
    def test_a_shipment(self, shipments: Site) -> None:
        """Its state and the carrier's id, and nothing of the address; the carrier's ledger has only its own entries."""
        order_id = clock.new_id()
        shipments.handle(ScheduleShipment(items=ITEMS, address=ADDRESS), order_id)
        status, answer = shipments.get(f"/shipments/{order_id}")
        assert (status, answer["state"]) == (200, "done")
        assert "Ada" not in str(answer)
        [entry] = shipments.get(f"/simulator/ledger?order_id={order_id}")[1]["items"]
        assert (entry["id"], entry["kind"], entry["amount"]) == (answer["shipment_id"], "shipment", None)

    @pytest.mark.parametrize("path", ["/shipments/{}", "/shipments/x"])
    def test_what_is_not_there(self, shipments: Site, path: str) -> None:
        """404, malformed or unknown."""
        assert shipments.get(path.format(clock.new_id()))[0] == 404


def test_metrics_tell_a_database_of_another_schema(stock: Site) -> None:
    """Which an older or newer process has left; and how far its clock is from this one's."""

    def gauge(name: str) -> float:
        lines = stock.client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"orderflow_{name} ")).split()[1])

    assert gauge("database_up") == gauge("database_schema_current") == 1
    assert abs(gauge("database_clock_ahead_seconds")) < 2
    stock.service.database.query("UPDATE alembic_version SET version_num = '0000'")
    ends = time.monotonic() + 60  # what took long to count is counted rarely
    while gauge("database_schema_current") and time.monotonic() < ends:
        time.sleep(0.05)
    assert gauge("database_schema_current") == 0
