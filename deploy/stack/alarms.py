"""CloudWatch alarms on the stack's queues: for dead letters, and for messages that nobody receives.

The alarms exist only if the parameter AlarmTopic names somebody to notify. LocalStack goes without them: it would load
CloudWatch for them, and it has no metrics of queues while SQS_DISABLE_CLOUDWATCH_METRICS is set.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deploy.stack.cloudformation_yaml import Flow, GetAtt, Ref, Sub

CONDITION: Final = "Alarmed"

OLDEST_SECONDS: Final = 60
"""A message that has waited for so long has missed its owner's deadline (`undo_after`): orders are compensated."""

_LASTING_MINUTES: Final = 3


def resources(stack: Mapping[str, Any]) -> dict[str, Any]:
    """One alarm for each queue among the stack's resources, named after the queue."""
    queues = {name: r["Properties"] for name, r in stack.items() if r["Type"] == "AWS::SQS::Queue" and name != "Ready"}
    return {
        f"{name}Alarm": _any_dead_letter(name, properties["QueueName"])
        if name.endswith("Dlq")
        else _too_old(name, properties["QueueName"])
        for name, properties in queues.items()
    }


def _any_dead_letter(queue: str, name: Sub) -> Flow:
    return _alarm(name, queue, "ApproximateNumberOfMessagesVisible", 0, minutes=1)


def _too_old(queue: str, name: Sub) -> Flow:
    return _alarm(Sub(f"{name}-age"), queue, "ApproximateAgeOfOldestMessage", OLDEST_SECONDS, minutes=_LASTING_MINUTES)


def _alarm(name: Sub, queue: str, metric: str, above: int, minutes: int) -> Flow:
    # An empty, unused queue has no metrics. By the default of TreatMissingData that raises no alarm.
    return Flow(
        Type="AWS::CloudWatch::Alarm",
        Condition=CONDITION,
        Properties={
            "AlarmName": name,
            "Namespace": "AWS/SQS",
            "MetricName": metric,
            "Dimensions": [{"Name": "QueueName", "Value": GetAtt(f"{queue}.QueueName")}],
            "Statistic": "Maximum",
            "Period": 60,
            "EvaluationPeriods": minutes,
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": above,
            "AlarmActions": [Ref("AlarmTopic")],
        },
    )
