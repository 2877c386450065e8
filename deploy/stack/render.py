"""Writes `stack.yaml` and `policies.yaml` from the routing table and the saga: `python -m deploy.stack.render`.

With `--check` it only compares. The templates are kept in git because AWS, LocalStack's container and the embedded
runtime all deploy the same file. Filters, event patterns, policies and the state machine are never edited by hand:
their source is `orderflow/routing.py` and `orderflow/saga/`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from deploy.stack import alarms, policies, state_machine
from deploy.stack.cloudformation_yaml import Block, Equals, Flow, GetAtt, If, Not, Ref, Sub, dump
from orderflow.routing import SERVICES, event_pattern, filter_policy, heard_by

STACK: Final = Path(__file__).parents[2] / "localstack" / "stack.yaml"
POLICIES: Final = Path(__file__).parents[2] / "deploy" / "aws" / "policies.yaml"

MAX_RECEIVES: Final = 200
"""A backstop only: the consumer dead-letters a message by its own count of failures long before. A message that waits
for a database or a newer consumer is received again at intervals of up to 15 minutes, for about a day."""
VISIBILITY_SECONDS: Final = 30
LONG_POLL_SECONDS: Final = 20
DLQ_RETENTION_SECONDS: Final = 14 * 24 * 3600
_LOG_DELIVERY: Final = (
    "CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery", "ListLogDeliveries",
    "PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups",
)  # fmt: skip

_HEADER: Final = """\
# Written by `python -m deploy.stack.render` from orderflow/routing.py and orderflow/saga/: change those, not this file.
# Deployed to LocalStack by localstack/init/ready.d/deploy.py, and to AWS as it is.
"""
_POLICIES_HEADER: Final = """\
# Written by `python -m deploy.stack.render` from orderflow/routing.py and orderflow/saga/: change those, not this file.
# For AWS, next to stack.yaml and with the same Name; see docs/adr/0021-a-policy-a-service.md. LocalStack enforces none.
"""
_NAME: Final = {
    "Name": {
        "Type": "String",
        "Default": "orderflow",
        "AllowedPattern": "[a-z][a-z0-9-]{0,39}",
        "Description": "Prefix of every name; ORDERFLOW_STACK in the services.",
    }
}


def _arn(resource: str) -> GetAtt:
    return GetAtt(f"{resource}.Arn")


def _queue(name: str, **properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": Sub("${Name}-" + name), **properties}}


def _dlq(name: str, **properties: Any) -> dict[str, Any]:
    return Flow(_queue(name, MessageRetentionPeriod=DLQ_RETENTION_SECONDS, **properties))


def _admit(*queues: str, **source_of: Ref | GetAtt) -> dict[str, Any]:
    """A queue policy that allows only the named sources to send: `sns=` a topic, `events=` a rule."""
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"Service": f"{service}.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": [_arn(queue) for queue in queues],
            "Condition": {"ArnEquals": {"aws:SourceArn": source}},
        }
        for service, source in source_of.items()
    ]
    document = {"Version": "2012-10-17", "Statement": statements}
    return Flow(
        Type="AWS::SQS::QueuePolicy", Properties={"Queues": [Ref(q) for q in queues], "PolicyDocument": document}
    )


def _service(name: str) -> dict[str, Any]:
    """The queue of one service with its DLQ, and what feeds it from the topic and the bus."""
    title = name.capitalize()
    queue = f"{title}Queue"
    own_arn = Sub("arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:${Name}-" + name)
    resources = {
        # The queue is named, not referred to, because it refers to its DLQ: two GetAtts would be a circle.
        f"{title}Dlq": _dlq(
            f"{name}-dlq", RedriveAllowPolicy={"redrivePermission": "byQueue", "sourceQueueArns": [own_arn]}
        ),
        queue: _queue(
            name,
            VisibilityTimeout=VISIBILITY_SECONDS,
            ReceiveMessageWaitTimeSeconds=LONG_POLL_SECONDS,
            RedrivePolicy={"deadLetterTargetArn": _arn(f"{title}Dlq"), "maxReceiveCount": MAX_RECEIVES},
        ),
    }
    if not heard_by(name):  # no events: commands are sent directly to its queue
        return resources
    return resources | {
        f"{title}SubscriptionDlq": _dlq(f"{name}-subscription-dlq"),
        f"{title}Subscription": {
            "Type": "AWS::SNS::Subscription",
            "Properties": {
                "TopicArn": Ref("Events"),
                "Protocol": "sqs",
                "Endpoint": _arn(queue),
                "RawMessageDelivery": True,
                "FilterPolicyScope": "MessageAttributes",
                "FilterPolicy": filter_policy(name),
                "RedrivePolicy": {"deadLetterTargetArn": _arn(f"{title}SubscriptionDlq")},
            },
        },
        f"{title}RuleDlq": _dlq(f"{name}-rule-dlq"),
        f"{title}Rule": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Name": Sub("${Name}-" + name),
                "EventBusName": Ref("Bus"),
                "EventPattern": event_pattern(name),
                "Targets": [
                    {
                        "Id": name,
                        "Arn": _arn(queue),
                        "InputPath": "$.detail",  # the body is the envelope itself, as with raw delivery
                        "DeadLetterConfig": {"Arn": _arn(f"{title}RuleDlq")},
                    }
                ],
            },
        },
        f"{title}RuleDlqPolicy": _admit(f"{title}RuleDlq", events=_arn(f"{title}Rule")),
        f"{title}QueuePolicy": _admit(queue, sns=Ref("Events"), events=_arn(f"{title}Rule")),
    }


def _machine() -> dict[str, Any]:
    """The state machine with its role, which may send to this stack's queues and write the machine's log."""
    queues = [_arn(f"{service.capitalize()}Queue") for service in state_machine.RECEIVERS]
    may_send = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": queues}
    # The actions that the delivery of a log needs; they support no resources.
    # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    may_log = {
        "Effect": "Allow",
        "Action": [f"logs:{action}" for action in _LOG_DELIVERY],
        "Resource": "*",
    }
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "states.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": Ref("AWS::AccountId")}},
    }
    log = {
        "Level": "ERROR",
        "IncludeExecutionData": False,  # it holds addresses
        "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": _arn("OrdersLog")}}],
    }
    return {
        "OrdersLog": {
            "Type": "AWS::Logs::LogGroup",
            "Condition": "Logged",
            "Properties": {"LogGroupName": Sub("/aws/vendedlogs/states/${Name}-orders"), "RetentionInDays": 30},
        },
        "OrdersRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
                "Policies": [
                    {
                        "PolicyName": "send",
                        "PolicyDocument": {
                            "Version": "2012-10-17",
                            "Statement": [may_send, If(["Logged", may_log, Ref("AWS::NoValue")])],
                        },
                    }
                ],
            },
        },
        "Orders": {
            "Type": "AWS::StepFunctions::StateMachine",
            "Properties": {
                "StateMachineName": Sub("${Name}-orders"),
                "StateMachineType": "STANDARD",
                "RoleArn": _arn("OrdersRole"),
                "LoggingConfiguration": If(["Logged", log, Ref("AWS::NoValue")]),
                "DefinitionString": Block(state_machine.text()),
                "DefinitionSubstitutions": {
                    f"{service.capitalize()}Queue": Ref(f"{service.capitalize()}Queue")
                    for service in state_machine.RECEIVERS
                },
            },
        },
    }


def template() -> dict[str, Any]:
    """The stack as data. CloudFormation's short forms are the classes of `cloudformation_yaml`."""
    resources: dict[str, Any] = {
        "Events": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": Sub("${Name}-events")}},
        "Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": Ref("Name")}},
    }
    for service in SERVICES:
        resources |= _service(service)
    subscription_dlqs = [name for name in resources if name.endswith("SubscriptionDlq")]
    resources["SubscriptionDlqsPolicy"] = _admit(*subscription_dlqs, sns=Ref("Events"))
    machine = _machine()
    # Publishers wait until the queue `ready` exists, which is created last: SNS and EventBridge accept a message for
    # which there is no subscription or rule yet, and drop it.
    whole = [*resources, *(name for name, resource in machine.items() if "Condition" not in resource)]
    resources |= machine
    resources["Ready"] = {"Type": "AWS::SQS::Queue", "DependsOn": whole} | {
        "Properties": {"QueueName": Sub("${Name}-ready")}
    }
    resources |= alarms.resources(resources)
    outputs = {f"{s.capitalize()}QueueUrl": {"Value": Ref(f"{s.capitalize()}Queue")} for s in SERVICES}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "orderflow's messaging: topic, bus, one queue per service, dead-letter queues, state machine.",
        "Parameters": {
            **_NAME,
            "Logging": {
                "Type": "String",
                "Default": "on",
                "AllowedValues": ["on", "off"],
                "Description": "Whether the state machine logs its errors to CloudWatch Logs; off in LocalStack.",
            },
            "AlarmTopic": {
                "Type": "String",
                "Default": "",
                "Description": "ARN of the SNS topic that alarms go to. Empty (LocalStack): there are no alarms.",
            },
        },
        "Conditions": {
            "Logged": Equals([Ref("Logging"), "on"]),
            alarms.CONDITION: Not([Equals([Ref("AlarmTopic"), ""])]),
        },
        "Resources": resources,
        "Outputs": outputs
        | {"TopicArn": {"Value": Ref("Events")}, "BusName": {"Value": Ref("Bus")}}
        | {"StateMachineArn": {"Value": Ref("Orders")}},
    }


def render() -> dict[Path, str]:
    """The text of each file."""
    return {
        STACK: _HEADER + dump(template()),
        POLICIES: _POLICIES_HEADER + dump(policies.template(_NAME)),
    }


def main(arguments: list[str]) -> int:
    """Writes the files. With `--check` it writes nothing and returns 1 if a file is out of date."""
    stale = 0
    for file, text in render().items():
        if "--check" not in arguments:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{file.parent.name}/{file.name} is out of date: run `python -m deploy.stack.render`.\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
