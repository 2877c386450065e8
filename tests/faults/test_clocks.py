"""FAULTS row 8: the processes' clocks are wrong, each in its own way, and jump; leases and deadlines use the
database's clock. (LocalStack doesn't check the time in a signature; AWS refuses one that is 15 minutes off.)"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median

import pytest

import tests.support
from orderflow.contracts import ChargePayment, EventBus, Money, Workflow
from orderflow.envelope import compose
from orderflow.routing import SERVICES
from tests.support import parts
from tests.support.load import Load
from tests.support.logs import LoggedSince
from tests.support.processes import apply, workers
from tests.support.system import KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("faults-system"), pytest.mark.row(8)]

MINUTES, DAY = 600, 86400
WRONG = {"order": MINUTES, "inventory": -MINUTES, "payment": DAY, "shipping": -DAY, "orchestrator": -DAY}
"""Seconds by which a service's clock is fast."""
JUMPS = {"order": -MINUTES, "inventory": 0, "payment": -DAY, "payment-2": DAY, "shipping": 0}
"""The offsets to which clocks are set while the processes work."""

WATCHED = {
    "outbox": "OLD.leased_until > clock_timestamp() AND NEW.leased_until > OLD.leased_until",
    "payments": "OLD.lease_until > clock_timestamp() AND NEW.state = OLD.state AND NEW.fence > OLD.fence",
    "shipments": "OLD.lease_until > clock_timestamp() AND NEW.state = OLD.state AND NEW.fence > OLD.fence",
}
"""Tables with leases → the condition for taking a row from a process whose lease is still valid."""
WATCH = """
CREATE TABLE IF NOT EXISTS thefts (what text);
CREATE FUNCTION note_theft() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO thefts VALUES (TG_TABLE_NAME); RETURN NULL; END $$;
"""
ON_TABLE = "CREATE TRIGGER note_theft AFTER UPDATE ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION note_theft();"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the library that shifts a process's clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build what shifts a process's clock")
    built = tmp_path_factory.mktemp("skew") / "skew.so"
    source = Path(tests.support.__file__).with_name("skew.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", built, source, "-ldl"], check=True)
    return built


class Clocks:
    """Shifts the clocks of processes, by one file per service that is read at every call."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self._shim = shim
        self._folder = folder

    def of(self, name: str, seconds: int) -> dict[str, str]:
        """The environment of a process whose clock is fast by this much."""
        self.set(name, seconds)
        return {"LD_PRELOAD": str(self._shim), "SKEW_FILE": str(self._folder / name)}

    def set(self, name: str, seconds: int) -> None:
        """Sets the clock of running processes."""
        (self._folder / f"{name}.new").write_text(str(seconds))
        (self._folder / f"{name}.new").rename(self._folder / name)


@pytest.fixture
def clocks(shim: Path, tmp_path: Path) -> Clocks:
    return Clocks(shim, tmp_path)


def fast(system: System, service: str) -> float:
    """Seconds by which a service's clock is fast, by the Date of an answer."""
    date = system.http.get(system.url(service, "/healthz")).headers["date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


@contextmanager
def thefts(system: System) -> Iterator[Callable[[], list[str]]]:
    """Watches every lease in every database; yields those that were taken while still valid."""
    tables = {s: ["outbox"] for s in SERVICES} | {
        "payment": ["outbox", "payments"],
        "shipping": ["outbox", "shipments"],
    }
    for service, names in tables.items():
        system.sql(service, WATCH + "".join(ON_TABLE.format(n, WATCHED[n]) for n in names))
    try:
        yield lambda: [what for s in SERVICES for (what,) in system.sql(s, "SELECT what FROM thefts")]
    finally:
        for service in SERVICES:
            system.sql(service, "DROP FUNCTION note_theft CASCADE; DROP TABLE thefts")


def test_no_lease_is_stolen(
    system: System, clocks: Clocks, seed: int, tmp_path: Path, measured: Callable[..., None]
) -> None:
    """Each service that calls a provider has two processes, whose clocks are days apart: they compete for the same
    intents, and relay the same outbox. In the middle clocks jump, also backwards."""
    log, logged = tmp_path / "workers.log", LoggedSince(system, "payment")

    def competed() -> int:
        said = "another process is at the charge"
        return log.read_text().count(said) + len(logged.lines(said))

    def ask_again() -> list[str]:
        orders = [system.place((Workflow.ORCHESTRATION, EventBus.SNS)) for _ in range(10)]
        for order_id in orders:
            system.send("payment", *(charge(order_id) for _ in range(4)))
        return orders

    apply(system, overrides={service: clocks.of(service, seconds) for service, seconds in WRONG.items()})
    for provider in ("payment", "shipping"):
        system.http.put(system.url(provider, "/simulator/faults"), json={"latency": 0.7}).raise_for_status()
    try:
        with (
            thefts(system) as stolen,
            workers(system, "payment", log, clocks.of("payment-2", -DAY)),
            workers(system, "shipping", log, clocks.of("shipping-2", DAY)),
            workers(system, "inventory", log, clocks.of("inventory-2", DAY)),
        ):
            until(lambda: log.read_text().count('"starting"') >= 3)
            shifts = {service: fast(system, service) for service in SERVICES}
            asked_again = ask_again()
            with Load(system, KINDS, rate=8, total=48, seed=seed) as load:
                load.until_taken(24)
                for name, seconds in JUMPS.items():
                    clocks.set(name, seconds)
                later = {service: fast(system, service) for service in SERVICES}
                taken = load.finish()
            system.until_terminal(*taken, *asked_again)
            while not competed() and len(asked_again) < 100:  # it is random which process gets a message
                asked_again += (more := ask_again())
                system.until_terminal(*more)
            system.check(acknowledged=[*taken, *asked_again])
            taken_from_others = stolen()
    finally:
        system.sql("providers", "UPDATE faults SET latency = 0")
    measured(stolen=len(taken_from_others), competed=competed())
    assert taken_from_others == []
    assert competed(), "both processes wanted the same intent"
    after = {service: seconds for service, seconds in (WRONG | JUMPS).items() if service in SERVICES}
    assert [{s: round(shift, -2) for s, shift in found.items()} for found in (shifts, later)] == [WRONG, after]
    for order_id in asked_again:
        assert system.ledger(order_id) == ["charge", "shipment"]
        assert system.sql("payment", "SELECT fence FROM payments WHERE order_id = %s", order_id) == [(1,)]
    system.no_dead_letters()


def charge(order_id: str) -> str:
    """The orchestrator's command again, as a separate message."""
    return compose(
        ChargePayment(amount=Money(amount=3998, currency="EUR"), payment_method="pm_card_visa"), source="orchestrator",
        order_id=order_id, workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS,
    ).encode()  # fmt: skip


TIMES = {"RESEND_AFTER": "5,7", "UNDO_AFTER": "9"}
OWNERS = {Workflow.CHOREOGRAPHY: "order", Workflow.ORCHESTRATION: "orchestrator", Workflow.HYBRID: "orchestrator"}
"""The owner that compensates an order at its deadline. (In step-functions it is AWS, by its own clock.)"""
LATE = """
SELECT extract(epoch FROM d.at - (
    SELECT min(p.at) FROM {0} p WHERE p.order_id = d.order_id AND p.type = 'StockReserved'
))::float
FROM {0} d WHERE d.note = 'deadline' AND d.order_id = ANY(%s::uuid[])
"""
"""Seconds from the last progress; a repeated reply to a resent message is no progress."""


def lateness(system: System, meanwhile: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds after their deadline at which orders are compensated if payment doesn't answer. `meanwhile` runs while
    they wait."""
    parts.stop(system.runtime, "payment")
    placed: dict[str, list[str]] = {"order": [], "orchestrator": []}
    for number in range(12):
        workflow, owner = list(OWNERS.items())[number % len(OWNERS)]
        placed[owner].append(system.place((workflow, EventBus.SNS)))
        time.sleep(0.25)  # the owner checks once per second: spread the orders over its whole period
    meanwhile()
    logs = {"order": "order_log", "orchestrator": "saga_log"}

    def late() -> list[float]:
        found = [system.sql(o, LATE.format(logs[o]), ids) for o, ids in placed.items()]
        return [seconds - float(TIMES["UNDO_AFTER"]) for rows in found for (seconds,) in rows]

    until(lambda: len(late()) == 12, what=lambda: str(late()))
    parts.start(system.runtime, "payment")
    orders = [order_id for ids in placed.values() for order_id in ids]
    assert set(system.until_terminal(*orders)) == {"CANCELLED"}
    system.check(acknowledged=orders)
    return late()


@pytest.mark.extra
def test_deadlines_keep(system: System, clocks: Clocks, measured: Callable[..., None]) -> None:
    """Clocks are a day fast or ten minutes slow, and step back by a day while orders wait for their deadlines. The
    orders are compensated as with correct clocks: none early, and none more than a second later."""
    apply(system, TIMES)
    right = lateness(system)
    apply(system, TIMES, {service: clocks.of(service, -WRONG[service]) for service in ("order", "orchestrator")})
    assert (round(fast(system, "order"), -2), round(fast(system, "orchestrator"), -2)) == (-MINUTES, DAY)

    def step_back() -> None:
        for service in ("order", "orchestrator"):
            clocks.set(service, -WRONG[service] - DAY)
        assert round(fast(system, "order"), -2) == -MINUTES - DAY

    wrong = lateness(system, step_back)
    measured(off_s=median(wrong) - median(right), earliest_s=min(wrong), latest_s=max(wrong), latest_right_s=max(right))
    assert min(wrong) >= 0
    assert max(wrong) <= max(right) + 1
