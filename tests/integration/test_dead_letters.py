"""Dead letters on a real system: after a failing handler, or undeliverable by topic or rule; managed over HTTP, by the
CLI, and with plain AWS tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from cli.main import app
from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import Parcel
from orderflow.broker.aws.dead_letters import SqsDeadLetters
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import compose
from orderflow.routing import Channel
from tests.support.buses import NAME, Emulated, by_template, receive_all
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]

FAILING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug in the handler'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON reservations FOR EACH ROW EXECUTE FUNCTION refuse()
"""


def orderflow(system: System, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("ORDERFLOW_RUNTIME", "embedded")
    monkeypatch.setenv("ORDERFLOW_HOME", str(system.runtime.home.path))
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def test_from_a_failing_handler_to_a_confirmed_order(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's procedure: the list says why, the handler is fixed, and after the redrive the order continues."""
    system.clean()
    system.sql("inventory", FAILING)
    try:
        order_id = system.place((Workflow.CHOREOGRAPHY, EventBus.SNS))
        until(lambda: system.depth("inventory-dlq"))
    finally:
        system.sql("inventory", "DROP TRIGGER refuse ON reservations; DROP FUNCTION refuse")
    listed = orderflow(system, monkeypatch, "dlq", "list")
    assert "a bug in the handler" in listed
    assert order_id in listed
    letters = json.loads(orderflow(system, monkeypatch, "dlq", "list", "--json"))["items"]
    assert {(one["service"], one["type"], one["handler"]) for one in letters} == {
        ("inventory", "OrderPlaced", "ReserveStock")
    }
    assert all(1 <= one["receives"] <= 5 for one in letters), "its owner resends it meanwhile, which counts, too"
    assert letters == json.loads(orderflow(system, monkeypatch, "dlq", "list", "--json"))["items"], "all given back"
    assert "pm_card" not in json.dumps(letters)
    assert letters[0]["id"] in orderflow(system, monkeypatch, "dlq", "show", letters[0]["message_id"])
    orderflow(system, monkeypatch, "dlq", "redrive", "--order", order_id, "--why", "mended", "--by", "ada")
    assert system.until_terminal(order_id) == ["CONFIRMED"]

    def told() -> list[tuple[str, str, str]]:
        entries = system.timeline(order_id)["entries"]
        return [(e["service"], e["type"], e["note"]) for e in entries if e["type"].startswith("DeadLetter")]

    until(told)
    assert set(told()) == {("inventory", "DeadLetterRedriven", "ada: mended (OrderPlaced)")}
    system.check()
    system.no_dead_letters()


def test_what_a_queue_refuses_by_its_settings_is_sent_once_they_are_mended(system: System) -> None:
    """A queue accepts short messages only. A command that is too long for it may be the queue's fault, so it is
    retried, not dead-lettered, and nobody else waits. Once that is fixed, the order continues by itself."""
    system.clean()
    sqs, queue = system.aws("sqs"), system.url("localstack", "/000000000000/orderflow-inventory")
    [before] = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["MaximumMessageSize"])["Attributes"].values()
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"MaximumMessageSize": "1024"})
    try:
        lines = [{"sku": "BOOK-1", "quantity": 1}] * 40
        order_id = system.place((Workflow.ORCHESTRATION, EventBus.SNS), items=lines)
        short = system.place((Workflow.ORCHESTRATION, EventBus.SNS))
        until(lambda: system.sql("orchestrator", "SELECT 1 FROM outbox WHERE attempts > 0"))
        assert system.until_terminal(short) == ["CONFIRMED"]
        assert not system.sql("orchestrator", "SELECT parked FROM outbox WHERE parked IS NOT NULL")
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"MaximumMessageSize": before})
    assert system.until_terminal(order_id) == ["CONFIRMED"]
    system.check(acknowledged=[order_id, short])


def test_what_is_discarded_is_logged_with_who_and_why(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The depth of the queue is among the metrics, too."""
    system.clean()
    system.send("payment", *(f"no envelope {n}" for n in range(25)))
    until(lambda: system.depth("payment-dlq") == 25)

    def depth() -> dict[str, float]:
        text = system.http.get(system.url("payment", "/metrics")).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {s.labels["queue"]: s.value for s in samples if s.name == "orderflow_dlq_messages"}

    until(lambda: depth() == {"payment-dlq": 25, "payment-subscription-dlq": 0, "payment-rule-dlq": 0}, 90, depth)
    answer = system.http.post(
        system.url("payment", "/dlq/discard"), json={"all": True, "by": "ada", "why": "sent by a test"}
    ).json()
    assert (len(answer["settled"]), answer["left"]) == (25, 0)
    lines = until(lambda: system.logged("payment", "dead letter settled"))
    assert {(line["action"], line["by"], line["why"]) for line in lines} == {("discarded", "ada", "sent by a test")}
    assert not any("no envelope 7" in json.dumps(line) for line in lines)
    system.no_dead_letters()


@pytest.fixture(scope="module")
def stack(system: System) -> Emulated:
    """A separate stack that no service uses."""
    return Emulated(system.url("localstack"), by_template)


def charged(bus: EventBus) -> Parcel:
    """An event to which shipping listens."""
    amount = c.Money(amount=1, currency="EUR")
    envelope = compose(
        c.PaymentCharged(payment_id="ch_1", amount=amount), source="payment", order_id=clock.new_id(),
        workflow=Workflow.CHOREOGRAPHY, event_bus=bus,
    )  # fmt: skip
    return Parcel(envelope, envelope.encode())


def letters_of(stack: Emulated, name: str) -> SqsDeadLetters:
    [found] = [queue for queue in stack.broker.dead_letters("shipping") if queue.name == name]
    return found


def test_what_the_topic_could_not_deliver_is_redriven_to_the_queue(system: System, stack: Emulated) -> None:
    """The queue is missing; SNS puts the event into the subscription's DLQ; after a redrive it arrives unchanged."""
    sqs = system.aws("sqs")
    url = system.url("localstack", f"/000000000000/{NAME}-shipping")
    kept = ["VisibilityTimeout", "RedrivePolicy"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=kept)["Attributes"]
    sqs.delete_queue(QueueUrl=url)
    event = charged(EventBus.SNS)
    try:
        stack.broker.send(Channel.BUS, "sns", [event])
        queue = letters_of(stack, "shipping-subscription-dlq")
        until(queue.depth)
    finally:
        sqs.create_queue(QueueName=f"{NAME}-shipping", Attributes=attributes)
    [letter] = queue.take(10)
    assert letter.reason
    queue.redrive([letter])
    assert [d.body for d in receive_all(stack, "shipping", 1)] == [event.body]
    assert queue.depth() == 0


def test_what_the_rule_could_not_deliver_is_redriven_as_its_target_wants_it(system: System, stack: Emulated) -> None:
    """AWS keeps the whole event in a rule's DLQ, its error in the attributes. (LocalStack 4.9 puts nothing there.)
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html"""
    event = charged(EventBus.EVENTBRIDGE)
    whole = {
        "version": "0", "id": clock.new_id(), "source": "orderflow", "account": "000000000000", "region": "us-east-1",
        "detail-type": event.envelope.type, "resources": [], "detail": json.loads(event.body),
    }  # fmt: skip
    error = {"ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "No permission to send to the queue"}
    system.aws("sqs").send_message(
        QueueUrl=system.url("localstack", f"/000000000000/{NAME}-shipping-rule-dlq"), MessageBody=json.dumps(whole),
        MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in error.items()},
    )  # fmt: skip
    queue = letters_of(stack, "shipping-rule-dlq")
    [letter] = queue.take(10)
    assert letter.reason == "No permission to send to the queue"
    queue.redrive([letter])
    assert [d.body for d in receive_all(stack, "shipping", 1)] == [event.body]


def arn(name: str) -> str:
    return f"arn:aws:sqs:us-east-1:000000000000:{NAME}-{name}"


def test_the_plain_aws_way(system: System, stack: Emulated) -> None:
    """`start-message-move-task` with a destination, as in docs/operating.md. Without one it fails: a message that a
    consumer dead-lettered has no source that SQS knows."""
    sqs = system.aws("sqs")
    queue = stack.broker.queue("shipping")
    sent = [charged(EventBus.SNS) for _ in range(5)]
    stack.broker.send(Channel.QUEUE, "shipping", sent)
    for delivery in queue.receive(10, 2):
        queue.park(delivery, "a reason")
    own = letters_of(stack, "shipping-dlq")
    until(lambda: own.depth() == 5)

    def status() -> Any:
        return sqs.list_message_move_tasks(SourceArn=arn("shipping-dlq"))["Results"][0]["Status"]

    sqs.start_message_move_task(SourceArn=arn("shipping-dlq"))
    until(lambda: status() == "FAILED", 30, status)
    url = system.url("localstack", f"/000000000000/{NAME}-shipping-dlq")
    visible = "ApproximateNumberOfMessages"
    until(lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[visible])["Attributes"][visible] == "5")
    sqs.start_message_move_task(SourceArn=arn("shipping-dlq"), DestinationArn=arn("shipping"))
    got = receive_all(stack, "shipping", 5)
    assert sorted(d.body for d in got) == sorted(p.body for p in sent)
    until(lambda: status() == "COMPLETED", 30, status)
    assert own.depth() == 0
