"""Makes LocalStack start faster, and its Step Functions and EventBridge run faster, and fixes a fault that no state
machine can handle by itself.

Four properties of LocalStack 4.9 need this:

- It builds a parser for every evaluation of a JSONPath (16 ms of CPU each; about 80 per order, and one for each event
  that a rule forwards), and parses the definition twice when it is deployed (2 s) and again for every execution
  (0.2 s). Both are pure functions of their text. With this hook each text is parsed once, even if many executions start
  at the same time.
- It reads botocore's list of all regions again for each service that it loads (0.2 s each).
- It loads an emulation of EC2 for one enumeration in its AWS Batch integration, which is more than half of its loading
  time.
- It sends half a message: if a task's time ends while its parameters are evaluated, on a busy machine, the task skips
  the rest of them and continues. On AWS the time begins when the task is scheduled, with all of its parameters.

As a hook this runs inside LocalStack, embedded or in its container, before `deploy.py`, which loads these modules in
any case. If the modules look different, it changes nothing.
"""

import enum
import functools
import importlib
import pickle
import sys
import threading
import types

PARSER = "localstack.services.stepfunctions.asl.parse.asl_parser"
REGIONS = "localstack.utils.aws.aws_stack"
WORKER = "localstack.services.stepfunctions.backend.execution_worker"
STATES = "localstack.services.stepfunctions.asl.component"


def once(parse):
    """Caches a parser: each text is parsed once. Only one thread parses at a time, because a parser can't be shared;
    threads that waited find the result in the cache."""
    cached, lock = functools.lru_cache(maxsize=1000)(parse), threading.Lock()

    def parsed(text):
        with lock:
            return cached(text)

    parsed.cache_info = cached.cache_info
    return parsed


def cache_paths():
    """Caches parsed JSONPaths. Must run before Step Functions is loaded, which binds the functions by name. Paths share
    one parser where that is possible."""
    import jsonpath_ng.ext.parser
    import jsonpath_rw

    most_states = once(jsonpath_ng.ext.parser.ExtentedJsonPathParser().parse)
    result_path = once(jsonpath_ng.parser.JsonPathParser().parse)
    jsonpath_ng.ext.parse, jsonpath_ng.parse = most_states, result_path
    jsonpath_rw.parse = once(jsonpath_rw.parse)  # EventBridge's


def load_without_ec2():
    """Loads Step Functions with a stand-in for `moto.batch.utils`. The stand-in is removed afterwards, so that other
    code gets the real module."""
    statuses = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
    utils = types.ModuleType("moto.batch.utils")
    utils.JobStatus = enum.Enum("JobStatus", {status: status for status in statuses}, type=str)
    standins = {"moto.batch": types.ModuleType("moto.batch"), utils.__name__: utils}
    if not standins.keys() & sys.modules.keys():
        sys.modules.update(standins)
        try:
            importlib.import_module(WORKER)
        finally:
            for name in standins:
                del sys.modules[name]


def cache_definitions():
    """Parses each definition once, also for the analysers that only look at its syntax tree. Every execution gets a
    copy, because it may write to it."""
    parser = importlib.import_module(PARSER).AmazonStateLanguageParser
    worker = importlib.import_module(WORKER)
    parsed = once(parser.parse)

    # An execution does not need the syntax tree. Unpickling makes a copy in 4 ms of CPU; deepcopy took 21 ms.
    pickled = once(lambda definition: pickle.dumps(parsed(definition)[0]))

    class CachedParser:
        @staticmethod
        def parse(definition):
            return pickle.loads(pickled(definition)), None  # noqa: S301 - of this process's own making, just above

    parser.parse = staticmethod(parsed)
    worker.AmazonStateLanguageParser = CachedParser


def share_regions():
    """Gives one boto3 session to all who ask for a service's regions. It has read them already: threads share it."""
    regions = importlib.import_module(REGIONS)
    boto3, session = regions.boto3, regions.boto3.Session()
    session.get_available_regions("sqs")
    regions.boto3 = types.SimpleNamespace(Session=lambda: session, session=boto3.session)


def send_whole_messages():
    """Makes a task that ended before all of its parameters were evaluated time out, instead of sending a message."""
    task = importlib.import_module(STATES + ".state.state_execution.state_task.state_task").StateTask
    timed_out = importlib.import_module(STATES + ".common.timeouts.timeout").EvalTimeoutError
    original = task._eval_parameters

    def whole(self, env):
        parameters = original(self, env)
        if not env.is_running():
            raise timed_out()
        return parameters

    task._eval_parameters = whole


try:
    cache_paths()
    load_without_ec2()
    cache_definitions()
    send_whole_messages()
    share_regions()
except (ImportError, AttributeError) as error:
    sys.stdout.write(f"LocalStack was not made faster in every way: {error!r}\n")
