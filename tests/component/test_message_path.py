"""The way of a message as `orderflow.messaging` tells it is the one that it takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import orderflow.messaging
from orderflow.contracts import Workflow
from tests.support.world import World

ROOT = Path(__file__).parents[2]
WAY = re.findall(r"^\d+\. `([\w/]+\.py)`, `(\w+)`", orderflow.messaging.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("workflow", [Workflow.CHOREOGRAPHY, Workflow.ORCHESTRATION])
def test_a_message_takes_the_way_that_is_told(world: World, workflow: Workflow) -> None:
    """Each function is called, for the first time, after the one above it."""
    files = {str(ROOT / path): path for path, _ in WAY}
    taken: dict[tuple[str, str], None] = {}

    def called(frame: FrameType, event: str, _: Any) -> None:
        step = files.get(frame.f_code.co_filename, ""), frame.f_code.co_name
        if event == "call" and step in WAY:
            taken[step] = None

    world.place(workflow=workflow)
    world.publish("order")
    if workflow is Workflow.ORCHESTRATION:
        world.deliver("orchestrator")
        world.publish("orchestrator")
    before = sys.getprofile()
    sys.setprofile(called)
    try:
        assert world.deliver("inventory") == 1
        world.publish("inventory")
    finally:
        sys.setprofile(before)
    world.settle()
    assert len(WAY) == 12
    assert list(taken) == WAY
