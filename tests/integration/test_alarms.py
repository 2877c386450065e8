"""The stack's alarms, really deployed, on a LocalStack with CloudWatch, which the system itself doesn't use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.stack import render
from orderflow.routing import SERVICES, heard_by
from runtime.embedded import localstack
from runtime.home import Home
from runtime.plan import make_plan
from tests.support.aws import client
from tests.support.ports import free_ports
from tests.support.system import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[str]:
    """The URL of a LocalStack that has CloudWatch, too."""
    plan, home = make_plan(free_ports()), Home.at(tmp_path / "home")
    home.make()
    program = localstack.program(home, plan)
    environment = {**program.environment, "PATH": os.environ["PATH"]}
    environment["SERVICES"] += ",cloudwatch"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            program.command, env=environment, cwd=program.folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: localstack.ready(plan), what=(tmp_path / "log").read_text)
        yield str(plan.url("localstack"))
    finally:
        process.kill()
        process.wait()


def test_with_somebody_to_tell_every_queue_is_watched(emulator: str) -> None:
    """By default there are no alarms; naming a topic creates one for each queue, on the queue's own metric."""
    cloudwatch, cloudformation = client("cloudwatch", emulator), client("cloudformation", emulator)
    assert cloudwatch.describe_alarms()["MetricAlarms"] == []
    topic = client("sns", emulator).create_topic(Name="operators")["TopicArn"]
    parameters = {"Name": "alarmed", "Logging": "off", "AlarmTopic": topic}
    cloudformation.create_stack(
        StackName="alarmed",
        TemplateBody=render.STACK.read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )

    def status() -> str:
        return str(cloudformation.describe_stacks(StackName="alarmed")["Stacks"][0]["StackStatus"])

    until(lambda: not status().endswith("IN_PROGRESS"))
    assert status() == "CREATE_COMPLETE"
    found = {a["Dimensions"][0]["Value"]: a for a in cloudwatch.describe_alarms(MaxRecords=100)["MetricAlarms"]}
    ways = {s: ("", "-dlq", "-subscription-dlq", "-rule-dlq") if heard_by(s) else ("", "-dlq") for s in SERVICES}
    assert found.keys() == {f"alarmed-{service}{way}" for service, names in ways.items() for way in names}
    for queue, alarm in found.items():
        dead = queue.endswith("-dlq")
        metric = "ApproximateNumberOfMessagesVisible" if dead else "ApproximateAgeOfOldestMessage"
        assert (alarm["Namespace"], alarm["MetricName"], alarm["AlarmActions"]) == ("AWS/SQS", metric, [topic])
        assert alarm["Threshold"] == (0 if dead else 60)
