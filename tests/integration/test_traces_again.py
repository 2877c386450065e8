"""Messages that are resent, or sent by another process, stay in their order's trace, in the real Jaeger."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

import httpx
import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from tests.support import parts
from tests.support.bodies import order_body
from tests.support.ports import free_ports
from tests.support.system import KINDS, System, until
from tests.support.traces import Jaeger, Trace, jaeger_of, malformed, trace_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Kind = tuple[Workflow, EventBus]


@pytest.fixture(scope="module")
def jaeger(system: System) -> Jaeger:
    return jaeger_of(system)


def test_what_is_resent_stays_in_the_trace(system: System, jaeger: Jaeger) -> None:
    """In every workflow: the service that must answer is down until its order's owner resends."""
    kinds: list[Kind] = [kind for kind in KINDS if kind[1] is EventBus.SNS]
    parts.stop(system.runtime, "inventory")
    try:
        orders = {system.place(kind): kind for kind in kinds}

        # Check the timeline, not the queue's depth: a poll of the stopped service may still hold a message.
        def sent_again(order_id: str) -> bool:
            return any(e["resend"] for e in system.timeline(order_id)["entries"])

        until(lambda: all(map(sent_again, orders)), what=lambda: [system.story(order_id) for order_id in orders])
    finally:
        parts.start(system.runtime, "inventory")
        system.until_ready()
    assert set(system.until_terminal(*orders)) == {"CONFIRMED"}
    end = "publish OrderConfirmed@order"
    for order_id, kind in orders.items():

        def missing(trace: Trace, order_id: str = order_id, kind: Kind = kind) -> list[str]:
            absent = [] if trace.resent else ["a resent message"]
            return absent + ([] if end in {s.label for s in trace} else [end]) + malformed(trace, order_id, *kind)

        trace_of(system, jaeger, order_id, missing)


def test_what_another_process_relays_stays_in_the_trace(system: System, jaeger: Jaeger) -> None:
    """A process is killed between its commit and its send; another's relay sends the message, in the same trace.

    Only the span that the killed process had not exported, the request's, is missing.
    """
    port, customer = free_ports()["ORDER_PORT"], f"c-{clock.new_id()}"
    environment = system.runtime.env("order") | {"ORDER_PORT": port, "CRASH_AT": "publish.before"}
    doomed = subprocess.Popen([sys.executable, "-m", "orderflow.serve", "order"], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(system, f"{url}/readyz"))
        with suppress(httpx.HTTPError):  # its connection may break: it is killed
            system.http.post(f"{url}/orders", json=order_body(customer_id=customer))
        found = until(lambda: system.sql("order", "SELECT id::text FROM orders WHERE customer_id = %s", customer))
        order_id = found[0][0]
        doomed.send_signal(signal.SIGTERM)  # what replaced the killed worker
        doomed.wait(30)
        assert system.until_terminal(order_id) == ["CONFIRMED"]
    finally:
        if doomed.poll() is None:
            doomed.kill()
            doomed.wait()
    end = "publish OrderConfirmed@order"

    def missing(trace: Trace) -> list[str]:
        lost = {s.parent_id for s in trace.orphans}
        return ([] if end in {s.label for s in trace} else [end]) + ([] if len(lost) == 1 else [f"{lost} are absent"])

    trace = trace_of(system, jaeger, order_id, missing)
    [lost] = {s.parent_id for s in trace.orphans}
    assert not trace.roots
    relayed = [s for s in trace if s.label == "publish OrderPlaced@order"]
    assert relayed, trace.drawn()
    assert {s.parent_id for s in relayed} == {lost}


def answers(system: System, url: str) -> bool:
    try:
        return bool(system.http.get(url).status_code == 200)
    except httpx.HTTPError:
        return False
