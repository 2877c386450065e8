"""What is deployed against the template, without an emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cli.commands import doctor
from deploy.stack import drift
from deploy.stack.drift import Parts, compare, deployed, wanted
from orderflow.routing import SERVICES

ARN = "arn:aws:any:us-east-1:000000000000:"


def as_answered(parts: Parts) -> Parts:
    """The parts as AWS answers: documents as JSON, numbers and booleans of queues and subscriptions as text."""

    def answered(value: Any) -> Any:
        text = json.dumps(value).replace("${}", ARN)
        return text if isinstance(value, dict) else json.loads(text) if isinstance(value, list) else text.strip('"')

    found = {name: {key: answered(value) for key, value in of.items()} for name, of in parts.items()}
    machine = "state machine shop-orders"
    return found | {
        machine: {"definition": parts[machine]["definition"].replace("${}", "http://localhost:4566/queue/")}
    }


@pytest.fixture(scope="module")
def template() -> Parts:
    """What the template wants of a stack `shop`; nobody changes it."""
    return wanted("shop")


@pytest.fixture
def found(template: Parts) -> Parts:
    return as_answered(template)


Wrong = Callable[[Parts], dict[str, tuple[str, str]]]


@pytest.fixture
def wrong(template: Parts) -> Wrong:
    """Gives the parts that are not as the template wants them: state and detail by name."""
    return lambda found: {p["name"]: (p["state"], p["detail"]) for p in compare(template, found) if p["state"] != "ok"}


def test_the_template_has_all_that_is_compared(template: Parts) -> None:
    for service in SERVICES:
        assert template[f"queue shop-{service}"].keys() >= {"RedrivePolicy", "Policy", "VisibilityTimeout"}
        assert template[f"subscription of shop-{service}"].keys() >= {"FilterPolicy", "RawMessageDelivery"}
        assert template[f"rule shop-{service}"].keys() == {"State", "EventPattern", "Targets"}
    assert {"topic shop-events", "event bus shop", "queue shop-ready", "state machine shop-orders"} <= template.keys()


def test_what_is_as_it_should_be(wrong: Wrong, found: Parts) -> None:
    """Whatever form ARNs, URLs, numbers and documents have."""
    assert wrong(found) == {}


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("queue shop-payment", "RedrivePolicy", "", "RedrivePolicy is , not {"),
        ("queue shop-payment", "RedrivePolicy", '{"deadLetterTargetArn": "a:x-dlq", "maxReceiveCount": 200}', "x-dlq"),
        ("queue shop-payment", "VisibilityTimeout", "31", "VisibilityTimeout is 31, not 30"),
        ("queue shop-payment", "Policy", None, "Policy is null, not {"),
        ("subscription of shop-order", "FilterPolicy", '{"type": ["x"]}', 'FilterPolicy is {"type": ["x"]}, not {'),
        ("subscription of shop-order", "RawMessageDelivery", "false", "RawMessageDelivery is false, not true"),
        ("rule shop-order", "State", "DISABLED", "State is DISABLED, not ENABLED"),
        ("rule shop-order", "Targets", [], "Targets is [], not ["),
        ("state machine shop-orders", "definition", '{"StartAt": "x"}', "definition is"),
    ],
)  # fmt: skip
def test_what_is_different(wrong: Wrong, found: Parts, name: str, key: str, value: Any, says: str) -> None:
    found[name][key] = value
    [(part, (state, detail))] = wrong(found).items()
    assert (part, state) == (name, "different")
    assert says in detail


def test_what_is_missing_or_extra(wrong: Wrong, found: Parts) -> None:
    found["queue shop-left-over"] = found.pop("queue shop-ready")
    assert wrong(found) == {"queue shop-ready": ("missing", ""), "queue shop-left-over": ("extra", "not in stack.yaml")}


class Emulator:
    """Answers for a stack `shop` as boto3's clients do; what is `gone` isn't there."""

    def __init__(self, parts: Parts, gone: tuple[str, ...] = (), code: str = "NotFoundException") -> None:
        self._parts, self._gone, self._code = parts, gone, code
        topic = SimpleNamespace(paginate=lambda TopicArn: [{"Subscriptions": self._subscriptions()}])
        self.clients: dict[str, Any] = {
            "sqs": SimpleNamespace(
                list_queues=lambda QueueNamePrefix: {"QueueUrls": [f"http://x/1/{n}" for n in self._names("queue")]},
                get_queue_attributes=lambda QueueUrl, AttributeNames: {"Attributes": self._of("queue", QueueUrl, "/")},
            ),
            "sns": SimpleNamespace(
                get_topic_attributes=self._check("topic"),
                get_paginator=lambda name: topic,
                get_subscription_attributes=lambda SubscriptionArn: {
                    "Attributes": self._of("subscription of", SubscriptionArn, ":")
                },
            ),
            "events": SimpleNamespace(
                describe_event_bus=self._check("bus"),
                list_rules=lambda EventBusName: {
                    "Rules": [{"Name": n, **self._of("rule", n, "/")} for n in self._names("rule")]
                },
                list_targets_by_rule=lambda Rule, EventBusName: {"Targets": self._of("rule", Rule, "/")["Targets"]},
            ),
            "stepfunctions": SimpleNamespace(
                describe_state_machine=lambda stateMachineArn: (
                    self._check("machine")() or self._of("state machine", stateMachineArn, ":")
                )
            ),
        }

    def _names(self, kind: str) -> list[str]:
        return [name.removeprefix(f"{kind} ") for name in self._parts if name.startswith(f"{kind} ")]

    def _of(self, kind: str, place: str, mark: str) -> dict[str, Any]:
        return self._parts[f"{kind} {place.rpartition(mark)[2]}"]

    def _subscriptions(self) -> list[dict[str, str]]:
        arns = [ARN + name for name in self._names("subscription of")]
        return [{"Endpoint": arn, "SubscriptionArn": arn} for arn in arns]

    def _check(self, kind: str) -> Callable[..., None]:
        def asked(**_: str) -> None:
            if kind in self._gone:
                raise ClientError({"Error": {"Code": self._code}}, "asked")

        return asked


def test_all_that_is_deployed_is_found(wrong: Wrong, found: Parts) -> None:
    assert wrong(deployed(Emulator(found).clients, "shop")) == {}


def test_what_is_gone_is_missing_with_all_that_it_has(wrong: Wrong, found: Parts) -> None:
    there = deployed(Emulator(found, gone=("topic", "bus", "machine")).clients, "shop")
    missing = {name for name in found if not name.startswith("queue ")}
    assert wrong(there) == dict.fromkeys(missing, ("missing", ""))


def test_other_errors_are_no_drift(found: Parts) -> None:
    with pytest.raises(ClientError):
        deployed(Emulator(found, gone=("topic",), code="AccessDenied").clients, "shop")


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert drift.main(["http://127.0.0.1:1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_the_doctor_finds_the_program() -> None:
    assert doctor._DRIFT.samefile(drift.__file__)
