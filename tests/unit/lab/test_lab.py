"""The lab's arithmetic, its schedule, and that the bare loop says what the services say."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from lab.bare.messages import reactions, template
from lab.bench.measure import Measured
from lab.bench.plan import Effort, schedule
from lab.bench.results import (
    Experiment,
    PairResult,
    as_json,
    compare_verdicts,
    pooled,
    stored_verdicts,
    tracing_verdicts,
)
from lab.stats import Spread, paired_ratios, percentile, spread
from lab.workload import Variant, variants
from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import decode
from orderflow.routing import TABLE


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """Nearest rank: no interpolation makes up a latency."""
    values = [float(v) for v in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [percentile(values, p) for p in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="%"):
        percentile(values, percent)


def test_a_spread_is_the_median_and_the_range() -> None:
    """Of an even number of values, the median lies in the middle of two."""
    assert spread([3.0, 1.0, 10.0, 2.0]) == Spread(2.5, 1.0, 10.0, 4)
    assert spread([]) is None


def test_ratios_are_taken_within_pairs() -> None:
    """The machine got four times slower; the ratio didn't change. What wasn't measured is left out."""
    pairs = [(80.0, 100.0), (20.0, 25.0), (None, 3.0), (4.0, None), (4.0, 0.0)]
    assert paired_ratios(pairs) == [0.8, 0.8]


def test_a_schedule_is_paired_shuffled_and_repeatable() -> None:
    """Each round holds every variant once; the same seed gives the same order; who goes first changes."""
    found = variants()
    made = schedule(found, 8, ("bare", "orderflow"), random.Random(7))
    assert made == schedule(found, 8, ("bare", "orderflow"), random.Random(7))
    for number in range(1, 9):
        assert Counter(p.variant for p in made if p.round == number) == Counter(found)
    assert {p.sides for p in made} == {("bare", "orderflow"), ("orderflow", "bare")}
    assert len({tuple(p.variant for p in made if p.round == n) for n in range(1, 9)}) > 1


def test_what_is_measured_can_be_narrowed() -> None:
    """A workflow without a bus is measured once, whatever bus is asked for."""
    assert {v.workflow for v in variants()} == set(TABLE)
    assert [v.name for v in variants("choreography")] == ["choreography/sns", "choreography/eventbridge"]
    assert [v.name for v in variants("orchestration", "eventbridge")] == ["orchestration"]
    assert "hybrid/eventbridge" not in [v.name for v in variants()]
    assert [v.name for v in variants("hybrid")] == ["hybrid/sns", "hybrid/eventbridge"]
    slow = Variant(Workflow.STEP_FUNCTIONS, EventBus.SNS)
    assert Effort().in_flight_of(slow) < Effort().in_flight_of(variants()[0])
    assert Effort().orders_of(slow) < Effort().orders_of(variants()[0])


# The bare loop


def test_messages_of_the_bare_loop_have_ids_of_their_own() -> None:
    """And carry the order's and the cause's."""
    made = template(
        Variant(Workflow.ORCHESTRATION, EventBus.SNS),
        reactions(Workflow.ORCHESTRATION)["payment", "ChargePayment"],
        "payment",
    )
    order_id, cause = clock.new_id(), clock.new_id()
    one, two = (decode(made.fill(order_id, cause).body) for _ in range(2))
    assert one.id != two.id
    assert (one.subject, one.causationid) == (order_id, cause)


# What follows from measurements


def _measured(side: str, throughput: float, p50: float, calls: float = 2.0, tail: float = 50.0) -> Measured:
    return Measured(
        side, throughput, 100, 1.0, calls, {}, 7.0, {"order": 5.0}, 0.0, 0.0, 400.0,
        latencies=[p50] * 98 + [tail] * 2, calls_single=17.0,
    )  # fmt: skip


def _compared(*rounds: tuple[float, float], stored: int | None = None) -> list[PairResult]:
    """Rounds in which orderflow had these throughputs (over 100 of bare) and medians (over 10)."""
    return [
        PairResult(
            number, "orchestration", ("bare", "orderflow"),
            {"bare": _measured("bare", 100, 10), "orderflow": _measured("orderflow", throughput, p50)}, stored,
        )
        for number, (throughput, p50) in enumerate(rounds, 1)
    ]  # fmt: skip


def test_verdicts_go_by_the_median_of_paired_ratios() -> None:
    """One bad round of three decides nothing."""
    experiment = Experiment("compare", "orderflow", "bare", _compared((85, 14), (20, 60), (82, 15)))
    assert [(round(v.value, 2), v.reached) for v in compare_verdicts(experiment)] == [
        (0.82, True), (1.5, True), (1.0, True),
    ]  # fmt: skip
    experiment = Experiment("compare", "orderflow", "bare", _compared((79, 14), (79, 16), (90, 16)))
    assert [v.reached for v in compare_verdicts(experiment)] == [False, False, True]


def test_flatness_is_the_change_of_the_ratio() -> None:
    """Half as fast with many orders stored is seen, whatever the machine did."""
    pairs = _compared((80, 12), stored=1_000) + _compared((40, 13), stored=100_000)
    found = stored_verdicts(Experiment("stored", "orderflow", "bare", pairs))
    assert [(round(v.value, 2), v.reached) for v in found] == [(0.5, False), (1.08, True)]
    assert "100,000" in found[0].what


def test_tracing_is_judged_by_throughput_and_by_the_tail_of_all_rounds() -> None:
    """A p99 of one short round would be its slowest order."""
    sides = {"traced": _measured("orderflow", 96, 10, tail=60), "untraced": _measured("orderflow", 100, 10, tail=50)}
    pairs = [PairResult(n, "hybrid/sns", ("traced", "untraced"), sides) for n in (1, 2)]
    assert pooled(pairs, "traced", 99) == 60
    found = tracing_verdicts(Experiment("tracing", "traced", "untraced", pairs))
    assert [(round(v.value, 2), v.reached) for v in found] == [(0.96, True), (1.2, False)]


def test_results_are_plain_json_with_every_round_in_them() -> None:
    """Raw latencies too, so that nobody has to trust our statistics."""
    experiment = Experiment("compare", "orderflow", "bare", _compared((85, 14), (80, 12)))
    found = json.loads(json.dumps(as_json({"at": "now"}, [experiment])))["experiments"][0]
    assert [r["ratios"]["throughput"] for r in found["rounds"]] == [0.85, 0.8]
    assert len(found["rounds"][0]["sides"]["bare"]["latencies"]) == 100
    assert found["summary"][0]["ratios"]["throughput"] == {"median": 0.825, "low": 0.8, "high": 0.85, "count": 2}
    empty = Experiment("tracing", "traced", "untraced")
    assert as_json({}, [empty])["experiments"][0]["verdicts"] == []
