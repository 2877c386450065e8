"""Lets LocalStack's Step Functions parse each JSONPath and each state machine once, not each time it is used.

LocalStack 4.9 builds a parser for every evaluation of a path (16 ms of CPU each, some 80 an order) and parses the
definition again for every execution (0.2 s). Both are pure functions of their text. As a hook it runs inside
LocalStack, embedded and in its container, before `deploy.py`, which loads these modules in any case. Where they have
another shape it changes nothing.
"""

import copy
import functools
import sys


def cache_paths():
    """Before Step Functions is loaded: its modules bind the function by name."""
    import jsonpath_ng.ext

    jsonpath_ng.ext.parse = functools.lru_cache(maxsize=1000)(jsonpath_ng.ext.parse)


def cache_definitions():
    """A copy of the parsed definition for each execution, which may note things in it."""
    from localstack.services.stepfunctions.backend import execution_worker

    original = execution_worker.AmazonStateLanguageParser

    class CachedParser:
        _parse = staticmethod(functools.lru_cache(maxsize=20)(original.parse))

        @staticmethod
        def parse(definition):
            program, _ = CachedParser._parse(definition)
            return copy.deepcopy(program), None  # an execution has no use for the syntax tree

    execution_worker.AmazonStateLanguageParser = CachedParser


try:
    cache_paths()
    cache_definitions()
except (ImportError, AttributeError) as error:
    sys.stdout.write(f"Step Functions stays as slow as it is: {error!r}\n")
