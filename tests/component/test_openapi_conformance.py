"""Every service does what its /openapi.json says: schemathesis makes requests from it, and checks the answers."""

from __future__ import annotations

import time
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from orderflow.contracts import Workflow
from orderflow.routing import SERVICES
from tests.support.bodies import order_body
from tests.support.oracle import complaints
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = 6
"""Requests for each operation that fit its schema, and as many that don't."""

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
"""Not that everything that fits the schema is accepted: no schema says that a SKU must be for sale, for example."""


NEVER_DONE = {"POST /stock/{sku}/restock", "POST /orders/{order_id}/retry", "POST /orders/{order_id}/cancel"}
"""Operations without a request here that succeeds: it would change the stock, or needs an order that is in trouble."""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_does_what_its_document_says(world: World, service: str) -> None:
    """No undocumented status, header or content type; each answer fits its schema; what doesn't fit is refused."""
    order_id = world.place(workflow=Workflow.ORCHESTRATION)  # every service knows it
    world.settle()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", world.http(service).application)
    tried: dict[str, set[int]] = {}

    def ask(case: Case) -> None:
        world.services[service].consumer.beat = time.monotonic()  # its thread, of which /readyz tells, doesn't run here
        answer = case.call()
        tried.setdefault(case.operation.label, set()).add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    try:
        for found in schema.get_all_operations():
            operation = found.ok()
            for case in _known(operation, order_id):
                ask(case)
            for mode in GenerationMode:
                _run(operation, mode, ask)
    finally:
        for provider in ("payment", "shipping"):
            assert world.http(provider).put("/simulator/faults", json={}).status_code == 200
    refused = {label for label, statuses in tried.items() if min(statuses) >= 300}
    assert refused <= NEVER_DONE, "none of its requests succeeded"
    world.settle()
    assert complaints(world.urls) == []


def _known(operation: APIOperation[Any, Any, Any], order_id: str) -> list[Case]:
    """Requests that succeed, which no schema describes."""
    match operation.label:
        case "POST /orders":
            return [operation.Case(body=order_body(), media_type="application/json")]
        case "POST /orders/{order_id}/cancel":  # it is confirmed: documented, too
            return [operation.Case(path_parameters={"order_id": order_id})]
        case "GET /stock/{sku}":
            return [operation.Case(path_parameters={"sku": "BOOK-1"})]
        case label if label.startswith("GET ") and "{order_id}" in label:
            return [operation.Case(path_parameters={"order_id": order_id})]
    return []


def _run(operation: APIOperation[Any, Any, Any], mode: GenerationMode, ask: Any) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def generated(case: Case) -> None:
        ask(case)

    try:
        generated()
    except Unsatisfiable:
        # It takes no input, so no input can be wrong.
        assert mode is GenerationMode.NEGATIVE
        assert not {"requestBody", "parameters"} & operation.definition.raw.keys()
