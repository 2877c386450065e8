"""deploy/aws/policies.yaml: a service may do what it does by the routing table, and nothing else."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest
import yaml

from deploy.stack import render
from orderflow.routing import SERVICES, TABLE, Channel, heard_by
from orderflow.saga import STEPS

RESOURCELESS = {"states:SendTaskSuccess": "it knows no resource: the token says which task is meant"}
"""Actions that AWS lets nobody narrow down, by the service authorization reference (no resource type), and why that is
harmless here. https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsstepfunctions.html"""

PARTS = {
    "sqs": r"arn:P:sqs:R:A:N-[a-z-]+", "sns": "arn:P:sns:R:A:N-events", "events": "arn:P:events:R:A:event-bus/N",
    "states": r"arn:P:states:R:A:(stateMachine:N-orders|execution:N-orders:\*)",
}  # fmt: skip
"""The stack's parts that actions are about. Of executions only the names, which are the orders', are left open."""


class _Loader(yaml.SafeLoader):
    """Puts short values in the place of parameters."""


def _sub(loader: Any, node: Any) -> str:
    short = {"AWS::Partition": "P", "AWS::Region": "R", "AWS::AccountId": "A", "Name": "N"}
    return re.sub(r"\$\{([\w:]+)\}", lambda found: short[found[1]], loader.construct_scalar(node))


_Loader.add_constructor("!Sub", _sub)
for _tag in ("!Ref", "!GetAtt"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_scalar(node))
for _tag in ("!Not", "!Equals"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_sequence(node, deep=True))

TEMPLATE: dict[str, Any] = yaml.load(render.POLICIES.read_text(encoding="utf-8"), Loader=_Loader)


def statements(service: str) -> list[dict[str, Any]]:
    document = TEMPLATE["Resources"][f"{service.capitalize()}Policy"]["Properties"]["PolicyDocument"]
    found: list[dict[str, Any]] = document["Statement"]
    return found


def allowed(service: str) -> dict[str, set[str]]:
    """Resources by action; of queues their names only."""
    found = defaultdict(set)
    for statement in statements(service):
        for action in statement["Action"]:
            found[action] |= {r.removeprefix("arn:P:sqs:R:A:N-") for r in statement["Resource"]}
    return dict(found)


def test_each_service_has_one_policy_and_its_arn_is_told() -> None:
    """A managed policy without a name, so that CAPABILITY_IAM is enough, and a changed one stays attached."""
    names = [f"{service.capitalize()}Policy" for service in SERVICES]
    assert TEMPLATE["Resources"].keys() == {*names, *(f"{service.capitalize()}Role" for service in SERVICES)}
    for name in names:
        policy = TEMPLATE["Resources"][name]
        assert policy["Type"] == "AWS::IAM::ManagedPolicy"
        assert policy["Properties"].keys() == {"PolicyDocument"}
        assert TEMPLATE["Outputs"][f"{name}Arn"] == {"Value": name}


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_allowed_wholesale(service: str) -> None:
    """Actions are named one by one, each about single parts of this stack."""
    sids = [statement["Sid"] for statement in statements(service)]
    assert len(set(sids)) == len(sids)
    for statement in statements(service):
        assert statement.keys() == {"Sid", "Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert re.fullmatch(r"(sqs|sns|events|states):[A-Za-z]+", action)
            if action in RESOURCELESS:
                assert statement["Resource"] == ["*"]
                continue
            for resource in statement["Resource"]:
                assert re.fullmatch(PARTS[action.partition(":")[0]], resource)


@pytest.mark.parametrize("service", SERVICES)
def test_queues_are_its_own(service: str) -> None:
    """It takes from its own queue and its dead letters only, looks at the depth of these, and finds the marker."""
    ways = ("-dlq", "-subscription-dlq", "-rule-dlq") if heard_by(service) else ("-dlq",)
    dlqs = {f"{service}{way}" for way in ways}
    found = allowed(service)
    for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"):
        assert found[action] == {service} | dlqs
    assert found["sqs:GetQueueAttributes"] == dlqs
    assert found["sqs:GetQueueUrl"] == {"ready"}
    queues = {"order", "orchestrator", service, f"{service}-dlq"}
    if service == "orchestrator":
        queues |= {step.service for step in STEPS}
    assert found["sqs:SendMessage"] == queues, "answers, notes on dead letters; commands from the orchestrator only"


@pytest.mark.parametrize("service", SERVICES)
def test_executions_are_the_coordinators(service: str) -> None:
    """The order service starts them, the orchestrator starts them again and looks; who is asked by a task answers."""
    found = {action for action in allowed(service) if action.startswith("states:")}
    asked = {step.service for step in STEPS} | {"order"}
    expected = {"states:SendTaskSuccess"} if service in asked else set()
    if service in ("order", "orchestrator"):
        expected |= {"states:StartExecution"}
    if service == "orchestrator":
        expected |= {"states:DescribeExecution", "states:GetExecutionHistory"}
    assert found == expected


def test_quotas_are_kept() -> None:
    """IAM counts 6,144 characters a policy, without white space; CloudFormation takes 51,200 bytes.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""
    longest = {"P": "aws-us-gov", "R": "ap-southeast-99", "A": "0" * 12, "N": "n" * 40}
    for service in SERVICES:
        text = json.dumps(statements(service), separators=(",", ":"))
        text = re.sub(r"(?<=[:/])([PRAN])(?=[:\"-])", lambda found: longest[found[1]], text)
        assert 500 < len(text) + len('{"Version":"2012-10-17","Statement":}') <= 6_144
    assert len(render.POLICIES.read_bytes()) <= 51_200


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_has_its_own_policy_alone(service: str) -> None:
    """Who runs the services is told to the stack; by default nobody, and there are no roles."""
    title = service.capitalize()
    role = TEMPLATE["Resources"][f"{title}Role"]
    assert role["Type"] == "AWS::IAM::Role"
    assert role["Properties"].keys() == {"AssumeRolePolicyDocument", "ManagedPolicyArns"}
    assert role["Properties"]["ManagedPolicyArns"] == [f"{title}Policy"]
    [trust] = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {"Effect": "Allow", "Principal": {"Service": "RunsAs"}, "Action": "sts:AssumeRole"}
    assert TEMPLATE["Conditions"] == {role["Condition"]: [["RunsAs", TEMPLATE["Parameters"]["RunsAs"]["Default"]]]}
    assert TEMPLATE["Outputs"][f"{title}RoleArn"] == {"Condition": role["Condition"], "Value": f"{title}Role.Arn"}


def test_every_channel_is_known_to_the_policies() -> None:
    """A new way for messages to leave a service needs a permission."""
    known = {Channel.BUS, Channel.QUEUE, Channel.START, Channel.TOKEN, Channel.NONE}
    assert {cell.channel for table in TABLE.values() for cell in table.values()} <= known
    assert set(Channel) == known
