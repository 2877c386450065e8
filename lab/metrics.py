"""The services' counters, from their `/metrics`."""

from __future__ import annotations

import urllib.request
from collections import Counter
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from lab.lines import LabProblem
from lab.system import Counts, System
from orderflow.routing import SERVICES

_CALLS: Final = "orderflow_aws_calls_total"
_BY_READING: Final = "GetQueueAttributes"
"""Asks for the depth of a dead-letter queue, which a service does when its metrics are read."""
_DELIVERIES: Final = "orderflow_messages_handled_total"
"""Counts every message that got a verdict, also those that a service has no reaction to."""
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never uses a proxy


def read(system: System) -> Counts:
    """The sum of all services' counters. Raises LabProblem if one doesn't answer, or has no such counter."""
    calls: Counter[str] = Counter()
    deliveries = 0
    for service in SERVICES:
        try:
            with _opener.open(f"{system.url(service)}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise LabProblem(f"{service} shows no metrics: {error}") from error
        for sample in [s for family in text_string_to_metric_families(text) for s in family.samples]:
            if sample.name == _CALLS and sample.labels["operation"] != _BY_READING:
                calls[f"{sample.labels['service']}:{sample.labels['operation']}"] += int(sample.value)
            elif sample.name == _DELIVERIES:
                deliveries += int(sample.value)
    if not calls:
        raise LabProblem(f"the services' metrics hold no {_CALLS}")
    return Counts(calls, deliveries)
