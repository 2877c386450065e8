"""Generates `policies.yaml` from the routing table: for each service a managed policy and, on demand, a role.

A policy allows exactly the actions that the service's code calls (`orderflow/broker/aws/`), on the service's own queue
and dead-letter queues, and on the destinations of its messages. A batch operation needs the permission of the single
operation. These pages list which actions support which resources:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html (…/list_amazonsns.html,
…/list_amazoneventbridge.html, …/list_awsstepfunctions.html)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deploy.stack.cloudformation_yaml import Equals, GetAtt, Not, Ref, Sub
from orderflow.contracts import Message, Workflow
from orderflow.routing import OPERATIONS, SERVICES, TABLE, Channel, Route, heard_by
from orderflow.saga import STEPS

ORCHESTRATOR: Final = "orchestrator"

_OUTCOMES: Final = {m: step.service for step in STEPS for m in (step.success, step.refusal, step.undone)}


_RUNS_AS: Final = {
    "RunsAs": {
        "Type": "String",
        "Default": "",
        "AllowedPattern": r"([a-z0-9.-]+\.amazonaws\.com(\.cn)?)?",
        "Description": "The AWS service that runs them, such as ecs-tasks.amazonaws.com: makes a role for each. Empty: "
        "policies only, for roles of your own.",
    }
}
_CONDITION: Final = "MakesRoles"


def template(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The template of a stack of its own: `stack.yaml` has no room left, and often other people may create policies
    than may create queues. Resources are named, not referred to, so either stack may be deployed first."""
    resources: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    trust = {"Effect": "Allow", "Principal": {"Service": Ref("RunsAs")}, "Action": "sts:AssumeRole"}
    for service in SERVICES:
        policy, role = f"{service.capitalize()}Policy", f"{service.capitalize()}Role"
        # No name and no description: changing either would replace the policy, which fails while it is attached.
        resources[policy] = {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": statements(service)}},
        }
        resources[role] = {
            "Type": "AWS::IAM::Role",
            "Condition": _CONDITION,
            "Properties": {
                "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
                "ManagedPolicyArns": [Ref(policy)],
            },
        }
        outputs[f"{policy}Arn"] = {"Value": Ref(policy)}
        outputs[f"{role}Arn"] = {"Condition": _CONDITION, "Value": GetAtt(f"{role}.Arn")}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "What each of orderflow's services may do: a policy, and on demand a role that has it.",
        "Parameters": {**parameters, **_RUNS_AS},
        "Conditions": {_CONDITION: Not([Equals([Ref("RunsAs"), ""])])},
        "Resources": resources,
        "Outputs": outputs,
    }


def statements(service: str) -> list[dict[str, Any]]:
    """The statements of a service's policy."""
    routes = _routes(service)
    channels = {route.channel for route in routes}
    told = sorted({name for route in routes if route.channel is Channel.QUEUE for name in route.listeners} - {service})
    ways = ("", "-subscription", "-rule") if heard_by(service) else ("",)
    dlqs = [_arn("sqs", f"{service}{way}-dlq") for way in ways]
    own = _arn("sqs", service)
    found = [
        _allow("Consume", ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"], [own, *dlqs]),
        _allow("CountDeadLetters", ["sqs:GetQueueAttributes"], dlqs),
        # It redrives dead letters to its own queue, and sends messages that it dead-letters to that queue's DLQ.
        _allow("Send", ["sqs:SendMessage"], [own, dlqs[0], *(_arn("sqs", name) for name in told)]),
        _allow("SeeThatTheStackIsWhole", ["sqs:GetQueueUrl"], [_arn("sqs", "ready")]),
    ]
    if Channel.BUS in channels:
        bus = Sub("arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${Name}")
        found += [
            _allow("Publish", ["sns:Publish"], [_arn("sns", "events")]),
            _allow("PutEvents", ["events:PutEvents"], [bus]),
        ]
    if Channel.TOKEN in channels:
        # This action supports no resources. The token, which only the task's receiver has, identifies the task.
        found.append(_allow("AnswerTasks", ["states:SendTaskSuccess"], ["*"]))
    if Channel.START in channels or service == ORCHESTRATOR:  # the guardian restarts lost executions
        found.append(_allow("StartExecutions", ["states:StartExecution"], [_arn("states", "orders", "stateMachine:")]))
    if service == ORCHESTRATOR:
        executions = [_arn("states", "orders:*", "execution:")]
        found.append(_allow("SeeExecutions", ["states:DescribeExecution", "states:GetExecutionHistory"], executions))
    return found


def maker(message: type[Message]) -> str:
    """The service that sends a message.

    In orchestration the orchestrator is one end of every message. A message to it that is no step's outcome comes from
    the order service; all others, and those that only hybrid has, come from the orchestrator.
    """
    if message in _OUTCOMES:
        return _OUTCOMES[message]
    cell = TABLE[Workflow.ORCHESTRATION].get(message)
    return "order" if cell and cell.listeners == (ORCHESTRATOR,) else ORCHESTRATOR


def _routes(service: str) -> list[Route]:
    """The routes of the messages that `service` sends, in any workflow. Every service can send operators' messages."""
    made = [cell for table in TABLE.values() for message, cell in table.items() if maker(message) == service]
    return [*made, *OPERATIONS.values()]


def _arn(kind: str, name: str, prefix: str = "") -> Sub:
    return Sub(f"arn:${{AWS::Partition}}:{kind}:${{AWS::Region}}:${{AWS::AccountId}}:{prefix}${{Name}}-{name}")


def _allow(sid: str, actions: list[str], resources: list[Any]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
