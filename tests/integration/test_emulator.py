"""What the hook `before_deploy.py` speeds up or fixes in LocalStack, inspected in LocalStack's own interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from deploy.stack import state_machine
from runtime.embedded.localstack import ENVIRONMENT, FOLDER, install

pytestmark = pytest.mark.slow

SEEN = """
import json, runpy, sys

runpy.run_path(sys.argv[1])
seen = {"loads EC2": any(name.startswith("moto.ec2") for name in sys.modules)}

import jsonpath_rw
from localstack.services.stepfunctions.asl.component.common.path import result_path
from localstack.services.stepfunctions.asl.utils import json_path
from localstack.services.stepfunctions.backend.execution_worker import AmazonStateLanguageParser
from localstack.utils.json import extract_jsonpath

state = {"detail": {"total": [7, 8]}}
seen["EventBridge"] = [extract_jsonpath(state, "$.detail.total[1]") for _ in range(2)]
seen["Step Functions"] = [json_path.extract_json("$.detail.total[1]", state) for _ in range(2)]
seen["ResultPath"] = [result_path.parse("$.detail.total").update_or_create(state, n) for n in (1, 2)]
parsers = {"EventBridge": jsonpath_rw, "Step Functions": json_path, "ResultPath": result_path}
seen["parsed"] = {name: module.parse.cache_info().misses for name, module in parsers.items()}

definition = sys.stdin.read()
from localstack.services.stepfunctions.asl.parse import asl_parser
from localstack.services.stepfunctions.asl.static_analyser import static_analyser, usage_metrics_static_analyser

static_analyser.StaticAnalyser().analyse(definition)
counted = usage_metrics_static_analyser.UsageMetricsStaticAnalyser.process(definition)
seen["languages"] = [mode.name for mode in counted.query_language_modes]
try:
    static_analyser.StaticAnalyser().analyse("{")
except asl_parser.ASLParserException:
    seen["refused"] = True
programs = [AmazonStateLanguageParser.parse(definition)[0] for _ in range(2)]
seen["programs"] = [type(program).__name__ for program in programs]
seen["states"] = len(programs[1].states.states)
seen["shared"] = programs[0].states.states is programs[1].states.states
seen["definitions"] = asl_parser.AmazonStateLanguageParser.parse.cache_info().misses - 1  # but for the one refused

import botocore.loaders
from localstack.utils.aws.aws_stack import get_valid_regions_for_service

read, load_file = [], botocore.loaders.JSONFileLoader.load_file
botocore.loaders.JSONFileLoader.load_file = lambda self, path: read.append(path) or load_file(self, path)
seen["regions"] = ["us-east-1" in get_valid_regions_for_service(name) for name in ("sqs", "sns", "events")]
seen["read for regions"] = [path for path in read if path.endswith("endpoints")]

from localstack.services.stepfunctions.asl.component.common.timeouts.timeout import EvalTimeoutError
from localstack.services.stepfunctions.asl.component.state.state_execution.state_task.state_task import StateTask

class Environment:
    stack, running = [], True
    def is_running(self): return self.running

class Parameters:
    def eval(self, env):
        env.stack.append({"QueueUrl": "q"})
        env.running = self.in_time

class Task:
    parargs = Parameters()
    def _get_supported_parameters(self): return None

seen["parameters"] = []
for Parameters.in_time in (True, False):
    try:
        seen["parameters"].append(StateTask._eval_parameters(Task(), Environment()))
    except EvalTimeoutError:
        seen["parameters"].append("timed out")
json.dump(seen, sys.stdout)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output of that program."""
    install()
    home = tmp_path_factory.mktemp("localstack")
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-c", SEEN, FOLDER / "init/ready.d/before_deploy.py"],
        input=state_machine.text(), capture_output=True, text=True, check=False, timeout=120, cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "FILESYSTEM_ROOT": str(home), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_json_path_is_parsed_once(seen: dict[str, Any]) -> None:
    """By each of the three libraries that do it."""
    assert seen["EventBridge"] == seen["Step Functions"] == [8, 8]
    assert seen["ResultPath"] == [{"detail": {"total": 2}}] * 2, "one object, set twice"
    assert seen["parsed"] == {"EventBridge": 1, "Step Functions": 1, "ResultPath": 1}


def test_each_execution_has_a_definition_of_its_own(seen: dict[str, Any]) -> None:
    assert seen["programs"] == ["Program", "Program"]
    assert seen["states"] == len(state_machine.definition()["States"])
    assert not seen["shared"]


def test_a_definition_is_parsed_once_by_its_analysers_and_executions(seen: dict[str, Any]) -> None:
    """What they find is unchanged."""
    assert seen["definitions"] == 1
    assert seen["languages"] == ["JSONPath"]
    assert seen["refused"]


def test_the_regions_of_all_services_are_read_once(seen: dict[str, Any]) -> None:
    assert seen["regions"] == [True, True, True]
    assert seen["read for regions"] == []


def test_an_emulation_of_ec2_is_not_loaded(seen: dict[str, Any]) -> None:
    assert not seen["loads EC2"]


def test_a_task_that_timed_out_before_it_knew_its_parameters_sends_nothing(seen: dict[str, Any]) -> None:
    """LocalStack skips what it has not evaluated by then: the services then had to dead-letter half an envelope."""
    assert seen["parameters"] == [{"QueueUrl": "q"}, "timed out"]
