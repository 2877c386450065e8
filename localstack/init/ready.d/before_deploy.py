"""Makes LocalStack's Step Functions and EventBridge load and run faster, and mends what no state machine can cope with.

LocalStack 4.9

- builds a parser for every evaluation of a JSONPath (16 ms of CPU each: some 80 an order, and one for each event that
  a rule sends on) and parses the definition again for every execution (0.2 s). Both are pure functions of their text:
  each is parsed once, also when many executions start at the same time;
- loads an emulation of EC2 for one enumeration of its AWS Batch integration: more than half of the time it takes;
- sends half a message: a task whose time ends while its parameters are evaluated, on a busy machine, skips the rest of
  them and goes on. AWS's tasks begin to count when they are scheduled, with all of their parameters.

As a hook it runs inside LocalStack, embedded and in its container, before `deploy.py`, which loads these modules in any
case. Where they have another shape it changes nothing.
"""

import enum
import functools
import importlib
import pickle
import sys
import threading
import types

WORKER = "localstack.services.stepfunctions.backend.execution_worker"
STATES = "localstack.services.stepfunctions.asl.component"


def once(parse):
    """Each text is parsed once, by one thread at a time: a parser can't be shared, and who waits finds it parsed."""
    cached, lock = functools.lru_cache(maxsize=1000)(parse), threading.Lock()

    def parsed(text):
        with lock:
            return cached(text)

    parsed.cache_info = cached.cache_info
    return parsed


def cache_paths():
    """Before Step Functions is loaded, which binds the functions by name. One parser for all paths, where it can be."""
    import jsonpath_ng.ext.parser
    import jsonpath_rw

    most_states = once(jsonpath_ng.ext.parser.ExtentedJsonPathParser().parse)
    result_path = once(jsonpath_ng.parser.JsonPathParser().parse)
    jsonpath_ng.ext.parse, jsonpath_ng.parse = most_states, result_path
    jsonpath_rw.parse = once(jsonpath_rw.parse)  # EventBridge's


def load_without_ec2():
    """With a stand-in for `moto.batch.utils`, which is taken away again: whoever needs the real one gets it."""
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
    """A copy of the parsed definition for each execution, which may note things in it."""
    worker = importlib.import_module(WORKER)
    original = worker.AmazonStateLanguageParser

    # An execution has no use for the syntax tree. Unpickling makes a copy in 4 ms of CPU; by deepcopy it took 21.
    pickled = once(lambda definition: pickle.dumps(original.parse(definition)[0]))

    class CachedParser:
        @staticmethod
        def parse(definition):
            return pickle.loads(pickled(definition)), None  # noqa: S301 - of this process's own making, just above

    worker.AmazonStateLanguageParser = CachedParser


def send_whole_messages():
    """A task that ended before it knew all of its parameters does nothing any more, but to have timed out."""
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
except (ImportError, AttributeError) as error:
    sys.stdout.write(f"Step Functions and EventBridge stay as slow as they are: {error!r}\n")
