"""What is deployed, compared with `stack.yaml`, part by part: `python deploy/stack/drift.py http://127.0.0.1:4566`.

Prints JSON: `parts` (name, `ok`, `missing`, `different` or `extra`, and what differs) and `depths` (messages by queue,
those in flight included). Roles, logs and alarms are not compared. Only for an emulator: the credentials are
LocalStack's, so it can't reach an AWS account. Exit status 0 if there is no drift, 1 if there is, 2 if nothing answers.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

STACK: Final = Path(__file__).parents[2] / "localstack" / "stack.yaml"
_ACCOUNT: Final = "arn:aws:{}:us-east-1:000000000000:{}"
_DEPTH: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
_NAMES: Final = ("QueueName", "TopicName", "StateMachineName", "Name")

Parts = dict[str, dict[str, Any]]
"""Properties by part, such as `queue orderflow-payment`."""


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as text: `!Ref X`, `!GetAtt X.Arn` and `!Sub '${X}'` as `${X}`."""


def _intrinsic(loader: Any, tag: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        text = str(loader.construct_scalar(node))
        return text if tag == "Sub" else f"${{{text.partition('.')[0]}}}"
    return loader.construct_sequence(node, deep=True)[-1]  # !If: no condition holds on an emulator


_Loader.add_multi_constructor("!", _intrinsic)


def wanted(stack: str) -> Parts:
    """The template's parts. A reference to a resource ends with its name; what stands before (`${}`) may be anything,
    as ARNs and URLs have several forms."""
    template = yaml.load(STACK.read_text(encoding="utf-8"), _Loader)["Resources"]  # noqa: S506 - a safe loader's child
    text = json.dumps({n: r for n, r in template.items() if "Condition" not in r}).replace("${Name}", stack)
    names = {n: next((p[k] for k in _NAMES if k in p), "") for n, p in _properties(json.loads(text))}
    filled = json.loads(re.sub(r"\$\{([\w:]+)\}", lambda found: "${}" + names.get(found[1], ""), text))
    parts: Parts = {}
    for name, of in _properties(filled):
        match filled[name]["Type"]:
            case "AWS::SQS::Queue":
                parts[f"queue {of.pop('QueueName')}"] = of
            case "AWS::SQS::QueuePolicy":
                for queue in of["Queues"]:
                    parts[f"queue {queue.removeprefix('${}')}"]["Policy"] = of["PolicyDocument"]
            case "AWS::SNS::Topic":
                parts[f"topic {of['TopicName']}"] = {}
            case "AWS::SNS::Subscription":
                compared = of.keys() - {"TopicArn", "Protocol", "Endpoint"}
                parts[f"subscription of {of['Endpoint'].removeprefix('${}')}"] = {key: of[key] for key in compared}
            case "AWS::Events::EventBus":
                parts[f"event bus {of['Name']}"] = {}
            case "AWS::Events::Rule":
                compared = of.keys() - {"Name", "EventBusName"}
                parts[f"rule {of['Name']}"] = {"State": "ENABLED", **{key: of[key] for key in compared}}
            case "AWS::StepFunctions::StateMachine":
                parts[f"state machine {of['StateMachineName']}"] = {"definition": of["DefinitionString"]}
    return parts


def deployed(client: Mapping[str, Any], stack: str) -> Parts:
    """What the emulator has under the stack's name."""
    sqs, sns, events, machines = (client[name] for name in ("sqs", "sns", "events", "stepfunctions"))
    parts: Parts = {}
    for url in sqs.list_queues(QueueNamePrefix=f"{stack}-").get("QueueUrls", ()):
        with _if_there():
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            parts[f"queue {url.rpartition('/')[2]}"] = attributes
    with _if_there():
        topic = _ACCOUNT.format("sns", f"{stack}-events")
        sns.get_topic_attributes(TopicArn=topic)
        parts[f"topic {stack}-events"] = {}
        for page in sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic):
            for found in page["Subscriptions"]:
                attributes = sns.get_subscription_attributes(SubscriptionArn=found["SubscriptionArn"])["Attributes"]
                parts[f"subscription of {found['Endpoint'].rpartition(':')[2]}"] = attributes
    with _if_there():
        events.describe_event_bus(Name=stack)
        parts[f"event bus {stack}"] = {}
        for rule in events.list_rules(EventBusName=stack)["Rules"]:
            targets = events.list_targets_by_rule(Rule=rule["Name"], EventBusName=stack)["Targets"]
            parts[f"rule {rule['Name']}"] = {**rule, "Targets": targets}
    with _if_there():
        arn = _ACCOUNT.format("states", f"stateMachine:{stack}-orders")
        parts[f"state machine {stack}-orders"] = machines.describe_state_machine(stateMachineArn=arn)
    return parts


@contextmanager
def _if_there() -> Iterator[None]:
    """Ends at the first thing that doesn't exist. Other errors are raised."""
    try:
        yield
    except ClientError as error:
        if not re.search("NotFound|NonExistent|DoesNotExist", error.response.get("Error", {}).get("Code", "")):
            raise


def compare(wanted: Parts, found: Parts) -> Iterator[dict[str, str]]:
    """Every part, with its state and what differs."""
    for name, properties in wanted.items():
        if name not in found:
            yield {"name": name, "state": "missing", "detail": ""}
            continue
        wrong = {key: value for key, value in properties.items() if not _same(value, found[name].get(key))}
        detail = "; ".join(f"{key} is {_short(found[name].get(key))}, not {_short(v)}" for key, v in wrong.items())
        yield {"name": name, "state": "different" if wrong else "ok", "detail": detail}
    for name in found.keys() - wanted.keys():
        yield {"name": name, "state": "extra", "detail": "not in stack.yaml"}


def _same(wanted: Any, found: Any) -> bool:
    """Documents are compared as data; numbers and booleans as the text that some answers give for them."""
    wanted, found = (json.loads(v) if isinstance(v, str) and v.startswith(("{", "[")) else v for v in (wanted, found))
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and wanted.keys() == found.keys()
            and all(_same(value, found[key]) for key, value in wanted.items())
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_same, wanted, found))
    if isinstance(wanted, bool):
        return str(wanted).lower() == str(found).lower()
    pattern = ".*".join(map(re.escape, str(wanted).split("${}")))
    return re.fullmatch(pattern, str(found), re.DOTALL) is not None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("${}", "…")
    return text if len(text) <= 80 else f"{text[:77]}…"


def _properties(resources: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, resource.get("Properties", {})) for name, resource in resources.items())


def main(arguments: list[str]) -> int:
    endpoint = arguments[0] if arguments else "http://127.0.0.1:4566"
    stack = os.environ.get("ORDERFLOW_STACK") or "orderflow"
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
    client = {
        service: boto3.client(
            service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test",
            aws_secret_access_key="test", config=config,  # noqa: S106 - LocalStack's account
        )
        for service in ("sqs", "sns", "events", "stepfunctions")
    }  # fmt: skip
    try:
        found = deployed(client, stack)
    except (HTTPClientError, BotoCoreError, ClientError) as error:
        sys.stderr.write(f"{endpoint}: {error}\n")
        return 2
    parts = list(compare(wanted(stack), found))
    queues = {name.removeprefix("queue "): of for name, of in found.items() if name.startswith("queue ")}
    depths = {name: sum(int(of[key]) for key in _DEPTH) for name, of in queues.items()}
    sys.stdout.write(json.dumps({"parts": parts, "depths": depths}, indent=1) + "\n")
    return int(any(part["state"] != "ok" for part in parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
