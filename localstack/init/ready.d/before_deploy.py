"""Makes LocalStack's Step Functions and EventBridge load and run faster; nothing of what they do changes.

LocalStack 4.9

- builds a parser for every evaluation of a JSONPath (16 ms of CPU each: some 80 an order, and one for each event that
  a rule sends on) and parses the definition again for every execution (0.2 s). Both are pure functions of their text:
  each is parsed once;
- loads an emulation of EC2 for one enumeration of its AWS Batch integration: more than half of the time it takes.

As a hook it runs inside LocalStack, embedded and in its container, before `deploy.py`, which loads these modules in any
case. Where they have another shape it changes nothing.
"""

import enum
import functools
import importlib
import pickle
import sys
import types

WORKER = "localstack.services.stepfunctions.backend.execution_worker"


def cache_paths():
    """Before Step Functions is loaded, which binds the functions by name."""
    import jsonpath_ng.ext
    import jsonpath_rw

    for module in (jsonpath_ng.ext, jsonpath_ng, jsonpath_rw):  # most of Step Functions, its ResultPath, EventBridge
        module.parse = functools.lru_cache(maxsize=1000)(module.parse)


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

    class CachedParser:
        @staticmethod
        @functools.lru_cache(maxsize=20)
        def _parse(definition):
            program, _ = original.parse(definition)  # an execution has no use for the syntax tree
            return pickle.dumps(program)  # copied in 4 ms of CPU; by deepcopy it took 21

        @staticmethod
        def parse(definition):
            return pickle.loads(CachedParser._parse(definition)), None  # noqa: S301 - made above

    worker.AmazonStateLanguageParser = CachedParser


try:
    cache_paths()
    load_without_ec2()
    cache_definitions()
except (ImportError, AttributeError) as error:
    sys.stdout.write(f"Step Functions and EventBridge stay as slow as they are: {error!r}\n")
