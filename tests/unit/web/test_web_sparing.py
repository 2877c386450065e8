"""What counts many rows is asked for rarely."""

from __future__ import annotations

import pytest

from orderflow.web.sparing import Sparing


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_an_answer_serves_for_longer_the_longer_it_took() -> None:
    """Half a second: ten more; a failure is not remembered."""
    clock, asked = Clock(), []

    def count() -> int:
        asked.append(clock.time)
        clock.time += 0.5
        if len(asked) == 3:
            raise LookupError
        return len(asked)

    sparing = Sparing(count, now=clock)
    assert [sparing.read(), sparing.read()] == [1, 1]
    clock.time = 10.4
    assert sparing.read() == 1
    clock.time = 10.6
    assert sparing.read() == 2
    clock.time = 30.0
    with pytest.raises(LookupError):
        sparing.read()
    assert sparing.read() == 4
