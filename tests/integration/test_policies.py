"""Compares the services' deployed policies with the calls that each service makes to AWS while it runs. A proxy between
it and the broker sees them, since LocalStack itself allows everything."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import pytest

from deploy.stack import render
from orderflow.contracts import EventBus, OrderPaid, Workflow
from orderflow.envelope import compose
from orderflow.routing import SERVICES
from tests.support.aws import client
from tests.support.proxy import Tap, proxy
from tests.support.system import KINDS, System, overridden, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]

Rights = dict[str, set[str]]
"""Resources by action."""

OUTCOMES = ({}, {"postal_code": "00000"})
"""A success, and the refusal that compensates everything before it."""
IN_ACCOUNT = "us-east-1:000000000000"


class Requests(Tap):
    """Records the calls over one connection, as IAM sees them: a batch operation counts as its single one.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-batch-api-actions.html"""

    def __init__(self, used: Rights) -> None:
        self._used = used
        self._data = b""

    def asked(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(_header(head, "content-length"))
            if len(rest) < length:
                return
            self._note(_header(head, "x-amz-target"), rest[:length].decode())
            self._data = rest[length:]

    def answered(self, data: bytes) -> bytes | None:
        return data

    def _note(self, target: str, body: str) -> None:
        asked: dict[str, Any] = json.loads(body) if target else dict(parse_qsl(body))
        service, _, operation = target.partition(".") if target else ("SNS", ".", asked["Action"])
        prefix = {"AmazonSQS": "sqs", "SNS": "sns", "AWSEvents": "events", "AWSStepFunctions": "states"}[service]
        resources = self._used[f"{prefix}:{operation.removesuffix('Batch')}"]
        if prefix == "sqs":
            name = asked.get("QueueName") or asked["QueueUrl"].rpartition("/")[2]
            resources.add(f"arn:aws:sqs:{IN_ACCOUNT}:{name}")
        elif prefix == "events":
            resources |= {f"arn:aws:events:{IN_ACCOUNT}:event-bus/{e['EventBusName']}" for e in asked["Entries"]}
        else:
            arns = (asked.get(name) for name in ("TopicArn", "stateMachineArn", "executionArn"))
            resources.add(next(filter(None, arns), "*"))


def _header(head: bytes, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r?$", head.decode(), re.IGNORECASE | re.MULTILINE)
    return found[1] if found else ""


@contextmanager
def watched(system: System) -> Iterator[dict[str, Rights]]:
    """The running system, with a proxy between each service and the broker that records what each uses."""
    used: dict[str, Rights] = {service: defaultdict(set) for service in SERVICES}
    with ExitStack() as stack:
        urls = {
            service: stack.enter_context(proxy(system.url("localstack"), partial(Requests, mine)))
            for service, mine in used.items()
        }
        stack.enter_context(overridden(system, {service: {"AWS_ENDPOINT_URL": url} for service, url in urls.items()}))
        yield used


RUNS_AS = "ecs-tasks.amazonaws.com"


@contextmanager
def deployed(system: System, **parameters: str) -> Iterator[dict[str, str]]:
    """The resources of policies.yaml as a stack, which is deleted again: physical ids by logical ones. Not its outputs:
    LocalStack leaves out those that come after one whose condition is false."""
    cloudformation = client("cloudformation", system.url("localstack"))
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    cloudformation.create_stack(
        StackName="policies",
        TemplateBody=render.POLICIES.read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=given,
    )

    def stacks() -> list[dict[str, Any]]:
        return [found for found in cloudformation.describe_stacks()["Stacks"] if found["StackName"] == "policies"]

    until(lambda: all(not found["StackStatus"].endswith("IN_PROGRESS") for found in stacks()))
    [stack] = [found for found in stacks() if found["StackStatus"] != "DELETE_COMPLETE"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    parts = cloudformation.list_stack_resources(StackName="policies")["StackResourceSummaries"]
    yield {part["LogicalResourceId"]: part["PhysicalResourceId"] for part in parts}
    cloudformation.delete_stack(StackName="policies")
    until(lambda: all(found["StackStatus"] == "DELETE_COMPLETE" for found in stacks()))


@pytest.fixture(scope="module")
def policies(system: System) -> dict[str, Rights]:
    """What each service may do, by the role that CloudFormation created for it from policies.yaml."""
    iam = client("iam", system.url("localstack"))
    found: dict[str, Rights] = {}
    with deployed(system, RunsAs=RUNS_AS) as made:
        for service in SERVICES:
            role = made[f"{service.capitalize()}Role"]
            trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
            assert [s["Principal"] for s in trust["Statement"]] == [{"Service": RUNS_AS}]
            [attached] = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
            assert attached["PolicyArn"] == made[f"{service.capitalize()}Policy"]
            version = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId="v1")["PolicyVersion"]
            rights = found[service] = defaultdict(set)
            for statement in version["Document"]["Statement"]:
                for action in statement["Action"]:
                    rights[action] |= set(statement["Resource"])
    return found


def place_all(system: System) -> str:
    """Orders of every kind, through success, refusal and cancellation; the id of one."""
    ids = [system.place(kind, **changes) for kind in KINDS for changes in OUTCOMES]
    ids += [order_id for kind in KINDS if system.cancel(order_id := system.place(kind)) == 202]
    system.until_terminal(*ids)
    return ids[0]


def lose_an_execution(system: System) -> None:
    """An execution is stopped while its order waits for a slow carrier; the order asks for it, and the guardian starts
    another one."""
    order_id = system.place((Workflow.STEP_FUNCTIONS, EventBus.SNS), postal_code="99999")
    execution = f"arn:aws:states:{IN_ACCOUNT}:execution:orderflow-orders:{order_id}"
    until(lambda: system.timeline(order_id)["waiting_for"])  # reads the execution's history
    system.aws("stepfunctions").stop_execution(executionArn=execution)
    system.sql(
        "order",
        "UPDATE orders SET next_at = now() - interval '1 s', progress_at = progress_at - interval '10 s' WHERE id = %s",
        order_id,
    )
    until(lambda: system.sql("orchestrator", "SELECT 1 FROM executions WHERE order_id = %s", order_id))
    system.sql("orchestrator", "UPDATE executions SET next_at = now() WHERE order_id = %s", order_id)
    assert system.until_terminal(order_id) == ["CONFIRMED"]


def settle_dead_letters(system: System, order_id: str) -> None:
    """A message of an unknown type in each queue is dead-lettered; an operator lists, redrives and discards it."""
    body = compose(
        OrderPaid.model_construct(), source="test", order_id=order_id, workflow=KINDS[0][0], event_bus=KINDS[0][1]
    ).encode()
    for service in SERVICES:
        system.send(service, body.replace("OrderPaid", "Nonsense"))

    def one_waits(service: str) -> bool:
        return system.depth(f"{service}-dlq") == 1

    settle = {"all": True, "by": "ada", "why": "a test"}
    for action in ("redrive", "discard"):
        for service in SERVICES:
            until(partial(one_waits, service))
            assert len(system.get(service, "/dlq")["items"]) == 1
            answer = system.http.post(system.url(service, f"/dlq/{action}"), json=settle)
            assert (answer.status_code, len(answer.json()["settled"])) == (200, 1), answer.text


def test_policies_allow_what_services_do(system: System, policies: dict[str, Rights]) -> None:
    """Each service's policy allows exactly the calls that it makes, on those resources; and it allows no action that
    the service never uses. `tests/unit/deploy/test_stack_policies.py` checks that no resource is too much."""
    system.clean()
    with watched(system) as used:
        order_id = place_all(system)
        lose_an_execution(system)
        settle_dead_letters(system, order_id)
        system.check()
    for service in SERVICES:
        for action, resources in used[service].items():
            for resource in resources:
                assert any(fnmatchcase(resource, allowed) for allowed in policies[service][action]), (
                    f"{service} is not allowed {action} on {resource}"
                )
        unused = {action for action in policies[service] if not used[service][action]}
        assert not unused, f"{service} never needs them"


def test_by_default_there_are_policies_only(system: System) -> None:
    """For users whose services run with existing roles."""
    with deployed(system) as made:
        assert set(made) == {f"{service.capitalize()}Policy" for service in SERVICES}
