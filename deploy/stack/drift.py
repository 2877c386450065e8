"""What is deployed, compared with `stack.yaml`, part by part: `python deploy/stack/drift.py http://127.0.0.1:4566`.

Prints JSON: `parts` (name, `ok`, `missing`, `different` or `extra`, and what differs) and `depths` (messages by queue,
those in somebody's hand included). Roles, logs and alarms are not looked at. Only of an emulator: the credentials are
LocalStack's, so it can't reach an AWS account. Exit status 0 if all is as it should be, 1 if not, 2 if nobody answers.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

STACK: Final = Path(__file__).parents[2] / "localstack" / "stack.yaml"
ACCOUNT: Final = "000000000000"
_DEPTH: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

Part = dict[str, str]


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as one-key mappings: `!Ref X` as {"Ref": "X"}."""


def _intrinsic(loader: Any, tag: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return {tag: loader.construct_scalar(node)}
    return {tag: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)


class Stack:
    """The template, and the broker that should be like it."""

    def __init__(self, endpoint: str, name: str, region: str = "us-east-1") -> None:
        self.name, self._region = name, region
        every = yaml.load(STACK.read_text(encoding="utf-8"), _Loader)["Resources"]  # noqa: S506 - a safe loader's child
        self._resources = {i: r for i, r in every.items() if "Condition" not in r}  # all conditions are for AWS
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
        self._sqs, self._sns, self._events, self._machines = (
            boto3.client(
                service, endpoint_url=endpoint, region_name=region, aws_access_key_id="test",
                aws_secret_access_key="test", config=config,  # noqa: S106 - LocalStack's account
            )
            for service in ("sqs", "sns", "events", "stepfunctions")
        )  # fmt: skip
        self.depths: dict[str, int] = {}
        self._attributes: dict[str, dict[str, str]] = {}

    def parts(self) -> Iterator[Part]:
        """Every part that is looked at, as it is."""
        looks = {
            "AWS::SQS::Queue": self._queue, "AWS::SQS::QueuePolicy": self._policy, "AWS::SNS::Topic": self._topic,
            "AWS::SNS::Subscription": self._subscription, "AWS::Events::EventBus": self._bus,
            "AWS::Events::Rule": self._rule, "AWS::StepFunctions::StateMachine": self._machine,
        }  # fmt: skip
        for resource in self._resources.values():
            if look := looks.get(resource["Type"]):
                yield look(self._plain(resource.get("Properties", {})))
        yield from self._extra()

    def _queue(self, wanted: dict[str, Any]) -> Part:
        name = wanted.pop("QueueName")
        try:
            url = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
            found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        except ClientError as error:
            return _missing(f"queue {name}", error)
        self.depths[name] = sum(int(found[n]) for n in _DEPTH)
        self._attributes[name] = found
        return _compared(f"queue {name}", wanted, found)

    def _policy(self, wanted: dict[str, Any]) -> Part:
        names = [url.rpartition("/")[2] for url in wanted["Queues"]]
        found = {name: self._attributes.get(name, {}).get("Policy") for name in names}
        return _compared(f"policy of {', '.join(names)}", dict.fromkeys(names, wanted["PolicyDocument"]), found)

    def _topic(self, wanted: dict[str, Any]) -> Part:
        try:
            self._sns.get_topic_attributes(TopicArn=self._arn("sns", wanted["TopicName"]))
        except ClientError as error:
            return _missing(f"topic {wanted['TopicName']}", error)
        return {"name": f"topic {wanted['TopicName']}", "state": "ok", "detail": ""}

    def _subscription(self, wanted: dict[str, Any]) -> Part:
        topic, queue = wanted.pop("TopicArn"), wanted.pop("Endpoint")
        name = f"subscription of {queue.rpartition(':')[2]}"
        wanted.pop("Protocol")
        arn = self._subscriptions(topic).get(queue)
        if arn is None:
            return {"name": name, "state": "missing", "detail": "events over SNS never reach it"}
        found = self._sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]
        return _compared(name, wanted, found)

    def _bus(self, wanted: dict[str, Any]) -> Part:
        try:
            self._events.describe_event_bus(Name=wanted["Name"])
        except ClientError as error:
            return _missing(f"event bus {wanted['Name']}", error)
        return {"name": f"event bus {wanted['Name']}", "state": "ok", "detail": ""}

    def _rule(self, wanted: dict[str, Any]) -> Part:
        name, bus = wanted["Name"], wanted["EventBusName"]
        try:
            found = self._events.describe_rule(Name=name, EventBusName=bus)
            targets = self._events.list_targets_by_rule(Rule=name, EventBusName=bus)["Targets"]
        except ClientError as error:
            return _missing(f"rule {name}", error)
        return _compared(f"rule {name}", {**wanted, "State": "ENABLED"}, {**found, "Targets": targets})

    def _machine(self, wanted: dict[str, Any]) -> Part:
        name, text = wanted["StateMachineName"], wanted["DefinitionString"]
        for key, value in wanted["DefinitionSubstitutions"].items():
            text = text.replace("${" + key + "}", value)
        try:
            found = self._machines.describe_state_machine(stateMachineArn=self._arn("states", f"stateMachine:{name}"))
        except ClientError as error:
            return _missing(f"state machine {name}", error)
        # A queue's URL has several forms here; all end like this.
        definition = re.sub(r'https?://[^"]*?(/\d{12}/)', r"\1", found["definition"])
        return _compared(f"state machine {name}", {"definition": text}, {"definition": definition})

    def _extra(self) -> Iterator[Part]:
        """What has the stack's name, or is fed by it, and is not in the template."""
        urls = self._sqs.list_queues(QueueNamePrefix=f"{self.name}-").get("QueueUrls", ())
        found = [("queue", url.rpartition("/")[2], set(self._attributes)) for url in urls]
        bus = next(r["Properties"]["Name"] for r in self._of("AWS::Events::EventBus"))
        try:
            rules = self._events.list_rules(EventBusName=self._plain(bus))["Rules"]
        except ClientError:
            rules = []
        known = {self._plain(r["Properties"]["Name"]) for r in self._of("AWS::Events::Rule")}
        found += [("rule", rule["Name"], known) for rule in rules]
        heard = {self._plain(r["Properties"]["Endpoint"]) for r in self._of("AWS::SNS::Subscription")}
        topic = self._arn("sns", self._plain(next(self._of("AWS::SNS::Topic"))["Properties"]["TopicName"]))
        found += [("subscription of", endpoint, heard) for endpoint in self._subscriptions(topic)]
        for kind, name, expected in found:
            if name not in expected:
                yield {"name": f"{kind} {name}", "state": "extra", "detail": "not in stack.yaml"}

    def _subscriptions(self, topic: str) -> dict[str, str]:
        """Subscription by endpoint."""
        try:
            pages = self._sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
            return {s["Endpoint"]: s["SubscriptionArn"] for page in pages for s in page["Subscriptions"]}
        except ClientError:
            return {}

    def _of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (resource for resource in self._resources.values() if resource["Type"] == kind)

    def _arn(self, service: str, name: str) -> str:
        return f"arn:aws:{service}:{self._region}:{ACCOUNT}:{name}"

    def _plain(self, value: Any) -> Any:
        """A value of the template with its intrinsics worked out."""
        match value:
            case {"Ref": name}:
                return self._reference(name)
            case {"GetAtt": place}:
                return self._attribute(place.partition(".")[0])
            case {"Sub": text}:
                return re.sub(r"\$\{([\w:]+)\}", lambda found: self._reference(found[1]), text)
            case {"If": [_, _, otherwise]}:
                return self._plain(otherwise)
            case dict():
                return {key: self._plain(item) for key, item in value.items()}
            case list():
                return [self._plain(item) for item in value]
        return value

    def _reference(self, name: str) -> str:
        known = {"Name": self.name, "AWS::Region": self._region, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws"}
        if name in known or name.startswith("AWS::"):
            return known.get(name, "")
        properties = self._resources[name]["Properties"]
        match self._resources[name]["Type"]:
            case "AWS::SQS::Queue":
                return f"/{ACCOUNT}/{self._plain(properties['QueueName'])}"
            case "AWS::SNS::Topic":
                return self._arn("sns", self._plain(properties["TopicName"]))
        return str(self._plain(properties["Name"]))

    def _attribute(self, resource: str) -> str:
        properties = self._resources[resource]["Properties"]
        match self._resources[resource]["Type"]:
            case "AWS::SQS::Queue":
                return self._arn("sqs", self._plain(properties["QueueName"]))
            case "AWS::Events::Rule":
                return self._arn("events", f"rule/{self.name}/{self._plain(properties['Name'])}")
        return ""


def _missing(name: str, error: ClientError) -> Part:
    code = error.response.get("Error", {}).get("Code", "")
    if not re.search("NotFound|NonExistent|DoesNotExist", code):
        raise error
    return {"name": name, "state": "missing", "detail": ""}


def _compared(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> Part:
    wrong = [key for key, value in wanted.items() if _normal(value) != _normal(found.get(key))]
    detail = "; ".join(f"{key} is {_short(found.get(key))}, not {_short(wanted[key])}" for key in wrong)
    return {"name": name, "state": "different" if wrong else "ok", "detail": detail}


def _normal(value: Any) -> Any:
    """Documents as data whatever their spelling; numbers and truths as the text that some answers give for them."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _normal(json.loads(value))
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def main(arguments: list[str]) -> int:
    endpoint = arguments[0] if arguments else "http://127.0.0.1:4566"
    stack = Stack(endpoint, os.environ.get("ORDERFLOW_STACK") or "orderflow")
    try:
        parts = list(stack.parts())
    except (HTTPClientError, BotoCoreError, ClientError) as error:
        sys.stderr.write(f"{endpoint}: {error}\n")
        return 2
    sys.stdout.write(json.dumps({"parts": parts, "depths": stack.depths}, indent=1) + "\n")
    return int(any(part["state"] != "ok" for part in parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
