"""Backing off: from the plans a search accepted to the one that holds after fine-tuning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.accuracy.calibration import CalibrationPoint
from cprune_rl.accuracy.final_gate import Verdict
from cprune_rl.agents.core.back_off import back_off, max_checks, pareto_front
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.finalize import (
    Finalist,
    FinetunedPlan,
    compare_finalists,
    finalize,
    select_fastest,
)
from cprune_rl.pipeline.progress import ProgressLog


class WidthGate:
    """A gate that holds from a given width on, and counts how often it was asked."""

    def __init__(self, holds_from: int) -> None:
        self.holds_from = holds_from
        self.asked = 0
        self.n_checks = 0

    def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> FinetunedPlan:
        model = nn.Linear(1, 1)
        model.width = torch.tensor(plan.widths[0])
        return FinetunedPlan(model, CalibrationPoint(plan, cheap_loss=0.02, full_loss=0.01))

    def judge(self, model: nn.Module, n_checks: int) -> Verdict:
        self.asked += 1
        self.n_checks = n_checks
        passed = int(model.width) >= self.holds_from
        return Verdict(
            accuracy=0.9,
            lower_bound=0.9 if passed else 0.8,
            floor=0.85,
            n_looks=n_checks,
            risk=0.05,
            passed=passed,
        )


def search(n_plans: int) -> SearchResult:
    """Plans of falling width and latency, the dense one first."""
    return SearchResult(
        method="toy",
        accepted=tuple(
            AcceptedPlan(Plan((100 - i,)), 1.0 - i / 100, 0.9 - i / 1000) for i in range(n_plans)
        ),
        history=(),
        cost={},
    )


@settings(deadline=None)  # the first network of a process takes long
@given(st.integers(1, 40), st.integers(0, 45))
def test_the_fastest_plan_that_holds_is_found_in_few_looks(n_plans: int, n_holding: int) -> None:
    gate = WidthGate(100 - n_holding)
    found = finalize(search(n_plans), gate, ProgressLog())
    assert found.plan.widths[0] == 100 - min(n_holding, n_plans - 1)
    assert found.verdict.passed
    assert found.n_finetuned <= gate.n_checks, "the gate allowed for every look that was taken"


def test_where_nothing_holds_the_dense_network_is_the_answer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = finalize(search(20), WidthGate(100), ProgressLog())
    assert found.plan == Plan((100,))
    assert "a --margin has the search keep" in capfd.readouterr().err.replace("\n", " ")


def test_a_plan_that_is_slower_and_less_accurate_than_another_is_left_out() -> None:
    dense, slow, fast, fastest = (
        AcceptedPlan(Plan((w,)), s, a)
        for w, s, a in ((9, 1.0, 0.95), (8, 0.8, 0.91), (7, 0.7, 0.92), (6, 0.6, 0.905))
    )
    assert pareto_front([dense, fastest, slow, fast]) == [dense, fast, fastest]
    as_fast = AcceptedPlan(Plan((5,)), fast.latency_s, 0.915)
    assert (
        pareto_front([dense, fast, as_fast])
        == pareto_front([dense, as_fast, fast])
        == [dense, fast]
    ), "of plans as fast the most accurate"


@pytest.mark.parametrize("n_plans", range(1, 40))
def test_the_gate_is_told_exactly_how_often_it_may_be_asked(n_plans: int) -> None:
    most = 0
    for n_holding in range(n_plans + 1):
        asked: list[int] = []
        kept = back_off(
            [AcceptedPlan(Plan((1,)), 1.0, 0.9)] * n_plans,
            lambda at, asked=asked, n=n_holding: asked.append(at) or at <= n,
        )
        assert kept == min(n_holding, n_plans - 1)
        most = max(most, len(asked))
    assert max_checks(n_plans) == max(most, 1)


def test_a_slower_plan_found_later_is_not_on_the_pareto_front() -> None:
    result = search(3)
    slower = AcceptedPlan(Plan((10,)), 2.0, 0.9)
    with_slower = replace(result, accepted=(*result.accepted, slower))
    assert finalize(with_slower, WidthGate(0), ProgressLog()).plan == Plan((98,))


@pytest.mark.parametrize("n_plans", [1, 2, 3])
def test_short_fronts_end(n_plans: int) -> None:
    assert finalize(search(n_plans), WidthGate(100), ProgressLog()).plan == Plan((100,))


def test_a_search_that_accepted_what_another_one_kept_ends_no_slower() -> None:
    class Moody(WidthGate):
        """Refuses odd widths, whatever they are."""

        def judge(self, model: nn.Module, n_checks: int) -> Verdict:
            verdict = super().judge(model, n_checks)
            return replace(verdict, passed=int(model.width) % 2 == 0)

    first = finalize(search(9), Moody(0), ProgressLog())
    assert first.plan == Plan((92,))
    longer = search(10)  # its fastest is refused, and bisection leads elsewhere
    alone, beside = (
        finalize(longer, Moody(0), ProgressLog()),
        finalize(longer, Moody(0), ProgressLog(), [first]),
    )
    assert alone.plan.widths[0] > 92
    assert beside.plan == first.plan
    assert beside.method == longer.method
    other = replace(longer, method="other", accepted=longer.accepted[:3])
    assert finalize(other, Moody(0), ProgressLog(), [first]).plan.widths[0] >= 98, (
        "a plan that it did not accept is not its own"
    )


def test_a_network_of_another_search_has_to_hold_at_more_looks() -> None:
    class Wary(WidthGate):
        """Lets the narrow network pass where the search asks no oftener than it was told
        beforehand.
        """

        def judge(self, model: nn.Module, n_checks: int) -> Verdict:
            verdict = super().judge(model, n_checks)
            return replace(
                verdict, passed=verdict.passed or (int(model.width) == 95 and n_checks <= most)
            )

    class Unlucky(Wary):
        """Whose own fine-tune of the narrow network comes to nothing."""

        def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> FinetunedPlan:
            return super().finetune(Plan((96,)) if plan == Plan((95,)) else plan, progress, what)

    found = search(6)
    most = max_checks(len(pareto_front(found.accepted)))
    first = finalize(found, Wary(98), ProgressLog())
    assert first.plan == Plan((95,))
    fewer = replace(found, accepted=(*found.accepted[:3], found.accepted[5]))
    most, gate = max_checks(len(pareto_front(fewer.accepted))), Unlucky(98)
    kept = finalize(fewer, gate, ProgressLog(), [first])
    assert gate.n_checks == most + 1, "its network was looked at once more"
    assert kept.plan == Plan((98,))


@pytest.mark.parametrize(("most", "kept"), [(0, 100), (1, 100), (2, 90), (9, 92)])
def test_no_more_is_fine_tuned_than_the_budget_pays_for(most: int, kept: int) -> None:
    gate = WidthGate(92 if most == 9 else 89)
    plans = search(21)  # down to a width of 80
    found = finalize(plans, gate, ProgressLog(), most=most)
    assert found.plan == Plan((kept,))
    assert found.n_finetuned <= most
    assert gate.n_checks <= max(most, 1), "fewer looks ask for less"


def test_a_search_that_asked_the_gate_keeps_its_fastest_verified_network() -> None:
    found = search(4)
    looks = [
        SearchStep(
            plan=Plan((width,)),
            what="full",
            latency_s=width / 100,
            accuracy=0.9,
            accepted=width > 90,
            n_looks=3,
        )
        for width in (89, 93, 95)
    ]
    passed = [AcceptedPlan(s.plan, s.latency_s, 0.9) for s in looks if s.accepted]
    found = replace(found, history=tuple(looks), accepted=(*found.accepted, *passed))
    gate = WidthGate(91)
    kept = finalize(found, gate, ProgressLog())
    assert kept.plan == Plan((93,)), "faster ones that the oracle alone accepted do not count"
    assert (gate.asked, gate.n_checks) == (1, 3), "its network is judged as within the search"
    assert kept.n_finetuned == 3
    refused = replace(found, history=tuple(replace(step, accepted=False) for step in looks))
    assert finalize(refused, WidthGate(91), ProgressLog()).plan == Plan((100,))


def side_by_side(noise_floor: float, **latency_ms: float) -> Comparison:
    intervals = {name: Interval(value, value, value) for name, value in latency_ms.items()}
    return Comparison(latency_ms=intervals, noise_floor=noise_floor)


def two_searches() -> tuple[Finalist, Finalist]:
    """A search that kept a plan, and one that accepted it too and has a faster estimate."""
    first = finalize(search(5), WidthGate(0), ProgressLog())
    longer = finalize(search(8), WidthGate(0), ProgressLog(), [first])
    assert (first.plan, longer.plan) == (Plan((96,)), Plan((93,)))
    assert [f.plan for f in longer.alternatives] == [first.plan], (
        "slower by the estimate, but the device has not spoken yet"
    )
    assert [f.method for f in longer.alternatives] == [longer.method]
    return first, longer


def test_of_the_networks_that_hold_the_one_that_is_fastest_on_the_device_is_kept() -> None:
    first, longer = two_searches()
    finalists = {"first": first, "longer": longer}
    kept = select_fastest(finalists, side_by_side(0.01, first=1.0, longer=1.05))
    assert kept["longer"].plan == first.plan
    assert kept["first"] is first, "it did not accept the other one's plan"
    assert select_fastest(finalists, side_by_side(0.10, first=1.0, longer=1.05)) == finalists, (
        "within the noise floor nothing is faster"
    )
    assert select_fastest(finalists, side_by_side(0.01, first=1.0, longer=0.95)) == finalists
    assert select_fastest(finalists, Comparison()) == finalists, (
        "without a device the estimate decides"
    )


def test_an_alternative_has_to_hold_the_floor() -> None:
    found, narrow = search(5), finalize(search(5), WidthGate(0), ProgressLog())
    assert finalize(found, WidthGate(98), ProgressLog(), [narrow]).alternatives == ()


@pytest.mark.parametrize(("longer_ms", "n_timed", "kept"), [(1.2, 2, 96), (0.9, 1, 93)])
def test_what_was_chosen_by_a_timing_is_timed_again(
    longer_ms: float, n_timed: int, kept: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    timed: list[dict[str, int]] = []

    class ToyBackend:
        def compare(
            self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
        ) -> Comparison:
            timed.append({name: n.plan.widths[0] for name, n in networks.items()})
            return side_by_side(0.01, dense=2.0, first=1.0, longer=longer_ms)

    first, longer = two_searches()
    context: Any = SimpleNamespace(
        backend=ToyBackend(),
        network=SimpleNamespace(dense=Plan((100,))),
        dense=SimpleNamespace(reference=nn.Linear(1, 1)),
    )
    finalists = {"first": first, "longer": longer}
    compared = compare_finalists(context, finalists, tmp_path, ProgressLog())
    assert len(timed) == n_timed
    assert timed[-1] == {"dense": 100, "first": 96, "longer": kept}
    assert compared.finalists["longer"].plan == Plan((kept,))
    assert compared.comparison.latency_ms["first"].value == 1.0
    assert ("longer accepted too" in capfd.readouterr().err.replace("\n", " ")) == (n_timed == 2)
