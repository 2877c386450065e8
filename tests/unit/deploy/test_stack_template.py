"""localstack/stack.yaml: what CloudFormation is given follows from the routing table, and nothing is left open."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deploy.stack import render
from orderflow.routing import SERVICES, event_pattern, filter_policy, heard_by


class _Loader(yaml.SafeLoader):
    """Reads the short forms (`!Ref X`) as their long forms (`{"Ref": "X"}`)."""


for _tag, _long in (("!Ref", "Ref"), ("!GetAtt", "Fn::GetAtt"), ("!Sub", "Fn::Sub")):
    _Loader.add_constructor(_tag, lambda loader, node, long=_long: {long: loader.construct_scalar(node)})

for _tag, _long in (("!If", "Fn::If"), ("!Equals", "Fn::Equals"), ("!Not", "Fn::Not")):
    _Loader.add_constructor(_tag, lambda loader, node, long=_long: {long: loader.construct_sequence(node, deep=True)})

TEMPLATE: dict[str, Any] = yaml.load(render.STACK.read_text(encoding="utf-8"), Loader=_Loader)
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
LISTENERS = [service for service in SERVICES if heard_by(service)]


def of_type(kind: str) -> dict[str, Any]:
    return {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == kind}


def arn(resource: str) -> dict[str, str]:
    return {"Fn::GetAtt": f"{resource}.Arn"}


def test_the_file_is_what_the_routing_table_says() -> None:
    """Nobody edits the template by hand, and nobody forgets to render it."""
    assert render.main(["--check"]) == 0, "run: python -m deploy.stack.render"


@pytest.mark.parametrize("service", LISTENERS)
def test_topic_and_bus_deliver_by_the_routing_table(service: str) -> None:
    """A service hears the same messages over SNS and EventBridge, and those that routing.py names."""
    queue = arn(f"{service.capitalize()}Queue")
    subscription = next(s for s in of_type("AWS::SNS::Subscription").values() if s["Endpoint"] == queue)
    assert subscription["FilterPolicy"] == filter_policy(service)
    assert subscription["RawMessageDelivery"] is True
    rule = next(r for r in of_type("AWS::Events::Rule").values() if r["Targets"][0]["Arn"] == queue)
    assert rule["EventPattern"] == event_pattern(service)
    assert rule["Targets"][0]["InputPath"] == "$.detail", "the queue's body is the envelope, as with raw delivery"


def test_only_listeners_are_subscribed() -> None:
    """One subscription and one rule a listening service, none for others."""
    assert len(of_type("AWS::SNS::Subscription")) == len(of_type("AWS::Events::Rule")) == len(LISTENERS)


def test_every_way_to_a_queue_has_dead_letters_of_its_own() -> None:
    """Queues, subscriptions and rule targets: each names a DLQ, and none shares it."""
    named = [
        q["RedrivePolicy"]["deadLetterTargetArn"] for q in of_type("AWS::SQS::Queue").values() if "RedrivePolicy" in q
    ]
    assert len(named) == len(SERVICES)
    named += [s["RedrivePolicy"]["deadLetterTargetArn"] for s in of_type("AWS::SNS::Subscription").values()]
    named += [t["DeadLetterConfig"]["Arn"] for r in of_type("AWS::Events::Rule").values() for t in r["Targets"]]
    targets = [reference["Fn::GetAtt"].removesuffix(".Arn") for reference in named]
    assert len(set(targets)) == len(targets)
    for target in targets:
        assert of_type("AWS::SQS::Queue")[target]["MessageRetentionPeriod"] == 14 * 24 * 3600
    others = of_type("AWS::SQS::Queue").keys() - set(targets) - {f"{s.capitalize()}Queue" for s in SERVICES}
    assert others == {"Ready"}


def test_policies_admit_only_the_stacks_own_topic_and_rules() -> None:
    """Each statement names one AWS service, one action, its queues, and a source that this stack makes. No queue that
    is fed by topic or bus is without."""
    policies = of_type("AWS::SQS::QueuePolicy")
    admitted = [queue["Ref"] for policy in policies.values() for queue in policy["Queues"]]
    ways = ("Queue", "SubscriptionDlq", "RuleDlq")
    assert sorted(admitted) == sorted(f"{s.capitalize()}{way}" for s in LISTENERS for way in ways)
    for policy in policies.values():
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Action"] == "sqs:SendMessage"
            assert statement["Resource"] == [arn(queue["Ref"]) for queue in policy["Queues"]]
            source = statement["Condition"]["ArnEquals"]["aws:SourceArn"]
            kind = RESOURCES[source.get("Ref") or source["Fn::GetAtt"].removesuffix(".Arn")]["Type"]
            expected = {"sns.amazonaws.com": "AWS::SNS::Topic", "events.amazonaws.com": "AWS::Events::Rule"}
            assert expected[statement["Principal"]["Service"]] == kind


def test_a_dlq_takes_from_its_own_queue_only() -> None:
    """The redrive allow policy names the one source queue."""
    for service in SERVICES:
        allowed = of_type("AWS::SQS::Queue")[f"{service.capitalize()}Dlq"]["RedriveAllowPolicy"]
        assert allowed["redrivePermission"] == "byQueue"
        assert [s["Fn::Sub"].rpartition(":")[2] for s in allowed["sourceQueueArns"]] == ["${Name}-" + service]


def test_the_marker_comes_last() -> None:
    """A publisher that sees the marker can rely on every subscription, rule and policy."""
    conditional = {name for name, resource in RESOURCES.items() if "Condition" in resource}
    assert set(RESOURCES["Ready"]["DependsOn"]) == RESOURCES.keys() - {"Ready"} - conditional


def test_every_reference_is_to_something_in_the_template() -> None:
    """No dangling Ref or GetAtt."""
    known = RESOURCES.keys() | TEMPLATE["Parameters"].keys() | {"AWS::AccountId", "AWS::NoValue"}

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["Ref"]] if "Ref" in value else []
            own += [value["Fn::GetAtt"].split(".")[0]] if "Fn::GetAtt" in value else []
            return own + [r for inner in value.values() for r in references(inner)]
        return [r for inner in value for r in references(inner)] if isinstance(value, list) else []

    assert set(references(TEMPLATE)) <= known


def test_the_state_machine_may_send_to_its_queues_only() -> None:
    """Its role allows one action on the queues that it names, besides its own log."""
    (role,) = of_type("AWS::IAM::Role").values()
    sends, logs = role["Policies"][0]["PolicyDocument"]["Statement"]
    (machine,) = of_type("AWS::StepFunctions::StateMachine").values()
    queues = [reference["Ref"] for reference in machine["DefinitionSubstitutions"].values()]
    assert sends == {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": [arn(queue) for queue in queues]}
    assert logs["Fn::If"][0] == "Logged"
    assert all(action.startswith("logs:") for action in logs["Fn::If"][1]["Action"])


def test_every_queue_has_its_alarm() -> None:
    """A dead letter anywhere, and a message that nobody takes; they tell the topic that is named, or don't exist."""
    alarms = of_type("AWS::CloudWatch::Alarm")
    assert all(RESOURCES[name]["Condition"] == "Alarmed" for name in alarms)
    watched = {a["Dimensions"][0]["Value"]["Fn::GetAtt"].removesuffix(".QueueName"): a for a in alarms.values()}
    assert watched.keys() == of_type("AWS::SQS::Queue").keys() - {"Ready"}
    assert len({alarm["AlarmName"]["Fn::Sub"] for alarm in alarms.values()}) == len(alarms)
    for queue, alarm in watched.items():
        assert (alarm["Namespace"], alarm["ComparisonOperator"]) == ("AWS/SQS", "GreaterThanThreshold")
        assert alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}]
        depth = ("ApproximateNumberOfMessagesVisible", 0)
        expected = depth if queue.endswith("Dlq") else ("ApproximateAgeOfOldestMessage", 60)
        assert (alarm["MetricName"], alarm["Threshold"]) == expected
    assert TEMPLATE["Conditions"]["Alarmed"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmTopic"}, ""]}]}
    assert TEMPLATE["Parameters"]["AlarmTopic"]["Default"] == ""


def test_cloudformation_takes_the_file_as_it_is() -> None:
    """51,200 bytes is the most that goes without a bucket."""
    assert len(render.STACK.read_bytes()) <= 51_200


def test_sns_limits_are_kept() -> None:
    """SNS takes at most 150 combinations of values a policy, and five keys."""
    for service in LISTENERS:
        policy = filter_policy(service)
        for branch in policy.get("$or", [policy]):
            assert len(branch) <= 5
            combinations = 1
            for values in branch.values():
                combinations *= len(values)
            assert combinations <= 150
