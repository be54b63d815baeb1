"""What records come to, by hand on small examples."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from cprune_rl.comparison.bootstrap import (
    interval,
    iqm,
    mean,
    resample_problems,
    resample_seeds,
)
from cprune_rl.comparison.compare import compare
from cprune_rl.comparison.profiles import hypervolume
from cprune_rl.comparison.report.tables import pairs_table
from cprune_rl.comparison.statistics import score
from cprune_rl.envs.problems.replay import EVALUATION_S, TRIAL_S
from cprune_rl.errors import ConfigError
from cprune_rl.reporting.tables import NOTHING
from tests.doubles.fake_records import failed, make_record, synthetic


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 25])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert iqm(values, np.ones((1, n)))[0] == pytest.approx(trim_mean(values, 0.25))
    assert iqm(np.append(values, np.nan), np.ones((1, n + 1)))[0] == pytest.approx(
        trim_mean(values, 0.25)
    )


def test_a_weight_stands_for_that_many_copies() -> None:
    values = np.array([1.0, 5.0, 2.0, 9.0])
    weights = np.array([[3.0, 0.0, 2.0, 1.0], [0.0, 4.0, 1.0, 3.0]])
    copies = [np.repeat(values, w.astype(int)) for w in weights]
    assert iqm(values, weights) == pytest.approx([trim_mean(c, 0.25) for c in copies])
    assert mean(values, weights) == pytest.approx([c.mean() for c in copies])


def test_the_interquartile_mean_of_known_values() -> None:
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]), np.ones((1, 8)))[
        0
    ] == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_resamples_keep_problems_whole_and_strata_as_large_as_they_were() -> None:
    problem = np.array([0, 0, 0, 1, 1, 2])
    both = resample_problems(problem, problem, 50)
    of_problem = np.stack([both[:, problem == p].sum(1) / (problem == p).sum() for p in range(3)])
    assert (of_problem == of_problem.round()).all(), "a problem is drawn whole"
    assert (of_problem.sum(0) == 3).all()
    assert (both[:, 0] != both[:, 1]).any(), "its seeds are drawn, too"
    within = resample_seeds(problem, 50)
    assert (within[:, :3].sum(1) == 3).all()
    assert (within[:, 5] == 1).all()


def test_figures_by_hand() -> None:
    """Two problems, two methods: log gains of ln 2, ln 8 and ln 4, ln 4."""
    records = [
        make_record("agent", 2.0, "a@x"),
        make_record("agent", 8.0, "b@x"),
        make_record("cprune", 4.0, "a@x"),
        make_record("cprune", 4.0, "b@x"),
    ]
    comparison = compare(records)
    agent, cprune = sorted(comparison.standings, key=lambda s: s.method)
    assert agent.speedup.value == pytest.approx(4.0)
    assert cprune.speedup.value == pytest.approx(4.0)
    assert agent.share.value == pytest.approx((1 / 2 + 1) / 2)
    assert cprune.share.value == pytest.approx((1 + 2 / 3) / 2)
    assert (agent.speedup.low, agent.speedup.high) == pytest.approx((2.0, 8.0))
    assert [s.method for s in comparison.standings] == ["cprune", "agent"]
    assert [s.rank for s in comparison.standings] == [1, 2]
    assert (cprune.faster, cprune.slower) == (0.5, 0.5)
    assert cprune.beats_agent is not None
    assert cprune.beats_agent.value == 0.5
    assert cprune.agent_over is not None
    assert cprune.agent_over.value == pytest.approx(0.75 - 5 / 6)
    assert comparison.profiles["agent"].value[[0, 50, 51, 100]] == pytest.approx(
        [1.0, 1.0, 0.5, 0.5]
    )


def test_a_proof_is_the_reference_and_gives_a_gap() -> None:
    records = [
        make_record("exact", math.e**2),
        make_record("agent", math.e),
        make_record("exact", 4.0, seed=1, ended="budget"),
        make_record("agent", 8.0, seed=1),
    ]
    scores = score(records)
    assert scores.is_proven.tolist() == [True, False]
    assert scores.reference == pytest.approx([2.0, math.log(8)])
    agent = next(s for s in compare(records).standings if s.method == "agent")
    assert agent.gap is not None
    assert agent.gap.value == pytest.approx(0.5)


def test_the_reference_is_not_ranked_but_counts_as_the_best() -> None:
    comparison = compare([make_record("reference", math.e**2), make_record("agent", math.e)])
    assert [s.method for s in comparison.standings] == ["agent"]
    assert comparison.standings[0].share.value == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([make_record("reference")])


def test_where_nothing_is_to_be_gained_finding_nothing_is_all() -> None:
    comparison = compare([make_record("agent", 1.0), make_record("cprune", 0.8)])
    assert {s.method: s.share.value for s in comparison.standings} == {"agent": 1.0, "cprune": 0.0}


def test_a_method_that_lacks_cases_is_shown_and_not_ranked() -> None:
    comparison = compare(
        [make_record("agent", 2.0), make_record("agent", 2.0, seed=1), make_record("cprune", 3.0)]
    )
    assert [(s.method, s.rank) for s in comparison.standings] == [("agent", 1), ("cprune", None)]
    assert any("cprune (1 of 2)" in r for r in comparison.caveats)


def test_methods_that_share_no_case_are_not_compared() -> None:
    comparison = compare([make_record("agent", 2.0), make_record("cprune", 3.0, seed=1)])
    assert np.isnan(comparison.improvement[0, 1]).all()
    assert comparison.standings[1].beats_agent is None
    assert NOTHING in next(pairs_table(comparison).rows())[2].text


def test_two_rows_of_one_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="two rows"):
        compare([make_record(), make_record()])


def test_the_order_of_rows_changes_nothing() -> None:
    records = synthetic(n_problems=3)
    shuffled = random.Random(1).sample(records, len(records))
    first = compare(records, n_resamples=200)
    second = compare(shuffled, n_resamples=200)
    assert first.standings == second.standings
    assert first.problem_standings == second.problem_standings
    assert first.fronts == second.fronts
    assert np.array_equal(first.improvement, second.improvement)
    assert first.caveats == second.caveats


def test_intervals_hold_their_values_and_are_wider_over_problems() -> None:
    comparison = compare(synthetic(), n_resamples=500)
    for s in comparison.standings:
        for i in (
            s.iqm,
            s.iqm_seeds,
            s.share,
            s.speedup,
            s.speedup_seeds,
            s.agent_over,
            s.beats_agent,
        ):
            assert i is None or i.low <= i.value <= i.high
        assert s.speedup.high - s.speedup.low > s.speedup_seeds.high - s.speedup_seeds.low
    for c in comparison.problem_standings:
        assert c.speedup.low <= c.speedup.value <= c.speedup.high


def test_chances_of_a_pair_add_up_to_one() -> None:
    values, low, high = np.moveaxis(compare(synthetic(), n_resamples=300).improvement, -1, 0)
    assert values + values.T == pytest.approx(np.ones_like(values))
    assert low + high.T == pytest.approx(np.ones_like(values))
    assert np.diagonal(values) == pytest.approx(0.5)


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(2.0, -1.0), (3.0, -2.0)], (1.0, -4.0)) == pytest.approx(1 * 3 + 1 * 2)
    dominated = [(3.0, -1.0), (2.0, -2.0)]
    assert hypervolume(dominated, (1.0, -4.0)) == pytest.approx(2 * 3)
    assert hypervolume([(0.9, 0.0), (2.0, -5.0)], (1.0, -4.0)) == 0.0
    front = compare(
        [
            make_record("agent", 2.0, accuracy=0.89),
            make_record("agent", 3.0, floor=-0.02, accuracy=0.88),
        ]
    ).fronts["agent"]
    assert front.worst == -4.0
    assert front.hypervolume.value == pytest.approx(5.0)


def test_gain_against_cost_ends_where_the_method_ended() -> None:
    comparison = compare(synthetic(n_problems=3), n_resamples=200)
    for cost in ("fresh_trials", "accuracy_evaluations", "seconds"):
        for standing in comparison.standings:
            curve = comparison.costs[cost][standing.method]
            assert curve.value[-1] == pytest.approx(standing.speedup.value)
            assert (np.diff(curve.value) >= -1e-12).all()


def test_gain_at_a_cost_by_hand() -> None:
    """Half the gain is there from a quarter of the evaluations on, all of it at the end."""
    record = make_record("agent", 4.0)
    costs = compare([replace(record, cost=record.cost | {"policy_s": 60.0})]).costs
    seconds = [60 + part * (300 * TRIAL_S + 20 * EVALUATION_S) for part in (0.25, 1)]
    for cost, ends in (
        ("accuracy_evaluations", [5.0, 20.0]),
        ("fresh_trials", [75.0, 300.0]),
        ("seconds", seconds),
    ):
        curve = costs[cost]["agent"]
        assert [curve.x[0], curve.x[-1]] == pytest.approx([min(ends[0], ends[1] / 2), ends[1]])
        assert curve.value[-1] == pytest.approx(4.0)
        assert np.interp(ends[0], curve.x, curve.value) == pytest.approx(2.0, rel=0.1)
        assert curve.value[-2] == pytest.approx(2.0)


def test_a_cost_that_nobody_had_is_left_out() -> None:
    record = make_record()
    free = replace(
        record,
        cost=record.cost | {"fresh_trials": 0.0},
        curve=((0.0, 0.0, 0.0), (0.0, 20.0, record.log_gain)),
    )
    assert set(compare([free]).costs) == {"accuracy_evaluations", "seconds"}


def test_oddities_are_named() -> None:
    records = [
        make_record(),
        failed(make_record(seed=1)),
        make_record(seed=2, holds=False),
        make_record(
            "cprune", budget={"trials": 5.0, "evaluations": 1.0, "minutes": None}, commit="other"
        ),
    ]
    records += [make_record("exact", 1.5), make_record("cprune", losses="recorded")]
    caveats = " ".join(compare(records).caveats)
    for part in (
        "one problem only",
        "failed count as no gain: agent (1)",
        "does not hold its floor count as no gain: agent (1)",
        "Budgets are not equal",
        "2 commits",
        "pooled",
        "proven",
    ):
        assert part in caveats


def test_an_interval_of_equal_values_is_the_value() -> None:
    weights = resample_problems(np.arange(6), np.arange(6), 100)
    quarter = interval(mean, np.full(6, 0.25), weights)
    assert (quarter.value, quarter.low, quarter.high) == pytest.approx((0.25, 0.25, 0.25))
