"""`orderflow doctor` on a running system, intact and with faults; and finding and retrying stuck orders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from orderflow.contracts import EventBus, Workflow
from orderflow.routing import TABLE
from tests.support import parts
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _there(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ORDERFLOW_RUNTIME", "embedded")
    monkeypatch.setenv("ORDERFLOW_HOME", str(system.runtime.home.path))
    system.clean()
    yield
    system.check()


def orderflow(*arguments: str, code: int = 0) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return json.loads(result.stdout)


def problems(code: int) -> dict[str, list[str]]:
    """The problems that the doctor reports, by check; each says what to do."""
    found = [f for f in orderflow("doctor", code=code)["findings"] if f["level"] == "problem"]
    assert all(finding["way_out"] for finding in found)
    return {f["check"]: [g["text"] for g in found if g["check"] == f["check"]] for f in found}


def test_a_whole_system_is_healthy(system: System) -> None:
    """Every check runs, and none finds a problem."""
    system.until_terminal(system.place())
    told = orderflow("doctor")
    assert told["healthy"]
    assert {f["check"] for f in told["findings"]} == {
        "runtime", "parts", "services", "broker", "stack", "databases", "queues", "dead letters", "outboxes", "orders",
        "clocks",
    }  # fmt: skip
    levels = {f["check"]: f["level"] for f in told["findings"]}
    assert levels["stack"] == levels["databases"] == levels["clocks"] == levels["dead letters"] == "ok", told


@contextmanager
def drift(system: System) -> Iterator[None]:
    """The stack, changed by hand: a filter, a redrive policy, a rule, one queue too many, and the marker gone."""
    sqs, sns, events = (system.aws(name) for name in ("sqs", "sns", "events"))
    queue = {"QueueUrl": system.queue("payment")}
    before = sqs.get_queue_attributes(**queue, AttributeNames=["RedrivePolicy"])["Attributes"]
    topic = next(t["TopicArn"] for t in sns.list_topics()["Topics"] if t["TopicArn"].endswith("orderflow-events"))
    listed = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    subscription = {
        "SubscriptionArn": next(s["SubscriptionArn"] for s in listed if s["Endpoint"].endswith("-inventory"))
    }
    policy = sns.get_subscription_attributes(**subscription)["Attributes"]["FilterPolicy"]
    rule = {"Name": "orderflow-shipping", "EventBusName": "orderflow"}
    sqs.set_queue_attributes(**queue, Attributes={"RedrivePolicy": ""})
    sns.set_subscription_attributes(**subscription, AttributeName="FilterPolicy", AttributeValue='{"type": ["x"]}')
    events.disable_rule(**rule)
    extra = sqs.create_queue(QueueName="orderflow-left-over")["QueueUrl"]
    sqs.delete_queue(QueueUrl=system.queue("ready"))
    try:
        yield
    finally:
        sqs.create_queue(QueueName="orderflow-ready")
        sqs.delete_queue(QueueUrl=extra)
        events.enable_rule(**rule)
        sns.set_subscription_attributes(**subscription, AttributeName="FilterPolicy", AttributeValue=policy)
        sqs.set_queue_attributes(**queue, Attributes=before)


def test_drift_of_the_stack_is_found_part_by_part(system: System) -> None:
    with drift(system):
        found = problems(code=1)["stack"]
        told = orderflow("doctor", code=1)["findings"]
    text = "\n".join(found)
    assert len(found) == 4, text
    for part in (
        "queue orderflow-payment is different: RedrivePolicy",
        "subscription of orderflow-inventory is different: FilterPolicy",
        "rule orderflow-shipping is different: State is DISABLED",
        "queue orderflow-ready is missing",
    ):
        assert part in text
    assert [f["level"] for f in told if "orderflow-left-over is extra" in f["text"]] == ["warning"]
    until(system.all_ready)
    assert "stack" not in problems(code=0)


def test_a_part_that_is_down_is_named(system: System) -> None:
    """It is reported as a part and as a service; checks that need its answer don't report that all is fine."""
    parts.stop(system.runtime, "shipping")
    try:
        found = problems(code=1)
    finally:
        parts.start(system.runtime, "shipping")
        system.until_ready()
    assert found["parts"] == ["shipping is stopped"]
    assert found["services"][0].startswith("shipping: The shipping service does not answer")


def test_dead_letters_are_found_at_once(system: System) -> None:
    system.send("payment", "no envelope")
    until(lambda: system.depth("payment-dlq"))
    assert problems(code=1)["dead letters"] == ["1 in payment-dlq"]
    system.take_dead_letters("payment", 1)


STUCK = "UPDATE orders SET open = true, attention = true, status = 'NEEDS_ATTENTION' WHERE id = ANY(%s::uuid[])"


def test_stuck_orders_of_every_workflow_are_found_by_one_command(system: System) -> None:
    """Orders that need an operator, and one past every deadline. The timeline records a retry with who and why."""
    orders = {workflow: system.place((workflow, EventBus.SNS)) for workflow in TABLE}
    late = system.place()
    fine = system.place()
    system.until_terminal(*orders.values(), late, fine)
    overdue = (
        "UPDATE orders SET open = true, progress_at = now() - interval '1 day', next_at = now() + interval '1 day'"
    )
    try:
        system.sql("order", STUCK, list(orders.values()))
        system.sql("order", f"{overdue} WHERE id = %s", late)
        listed = {order["id"] for order in orderflow("order", "list", "--stuck")["items"]}
        assert listed == {*orders.values(), late}
        assert problems(code=1)["orders"] == [f"{len(orders)} need an operator", "1 are past every deadline"]
        retried = orders[Workflow.CHOREOGRAPHY]
        orderflow("order", "retry", retried, "--by", "ada", "--why", "the carrier is back")
        entries = system.timeline(retried)["entries"]
        assert [e["note"] for e in entries if e["type"] == "OrderRetryRequested"] == ["ada: the carrier is back"]
        assert retried not in {order["id"] for order in orderflow("order", "list", "--stuck")["items"]}
    finally:
        ended = "UPDATE orders SET open = false, attention = false, status = 'CONFIRMED' WHERE id = ANY(%s::uuid[])"
        system.sql("order", ended, [*orders.values(), late])
    assert "orders" not in problems(code=0)
