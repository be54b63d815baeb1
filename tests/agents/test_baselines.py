"""The published methods that the agent is compared with:

each a searcher like any other, and the program that three of them solve.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.agents.baselines.amc import AMC, AMCSettings
from cprune_rl.agents.baselines.bayesian import Bayes
from cprune_rl.agents.baselines.exact import Exact
from cprune_rl.agents.baselines.fastnas import FastNAS
from cprune_rl.agents.baselines.halp import HALP
from cprune_rl.agents.baselines.mdp import MDP
from cprune_rl.agents.baselines.netadapt import NetAdapt
from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.core.session import SearchSession
from cprune_rl.agents.planner.surrogate import SurrogateSearch
from cprune_rl.core.network import Plan
from cprune_rl.envs.problems.replay import ReplaySettings, open_replay
from cprune_rl.testing import check_searcher, toy_problem

SMALL_AMC = AMCSettings(episodes=40, random_episodes=20, width=32)
WAYS: dict[str, Callable[[], Searcher]] = {
    "halp": HALP,
    "mdp": MDP,
    "exact": lambda: Exact(toy_problem().loss_model),
    "fastnas": FastNAS,
    "netadapt": NetAdapt,
    "bayes": lambda: Bayes(max_plans=40),
    "amc": lambda: AMC(SMALL_AMC),
}


@pytest.fixture(params=list(WAYS))
def make(request: pytest.FixtureRequest) -> Callable[[], Searcher]:
    """Each method in turn."""
    way: Callable[[], Searcher] = WAYS[request.param]
    return way


def test_every_rival_passes_the_conformance_suite(make: Callable[[], Searcher]) -> None:
    result = check_searcher(make, toy_problem)
    assert result.method == make().name
    assert result.best.latency_s < result.accepted[0].latency_s


def test_a_rival_that_may_evaluate_nothing_tries_nothing(make: Callable[[], Searcher]) -> None:
    result = make().search(toy_problem(), Budget(accuracy_evaluations=0))
    assert result.history == ()
    assert len(result.accepted) == 1


@pytest.mark.parametrize("method", ["halp", "mdp", "exact", "netadapt"])
def test_a_rival_is_no_worse_than_the_best_uniform_plan(method: str) -> None:
    problem = toy_problem()
    uniform = [problem.network.uniform(r) for r in np.linspace(0.2, 1, 81)]
    best_s = min(
        problem.measured_s(p) for p in uniform if problem.oracle.accuracy(p).value >= problem.floor
    )
    assert WAYS[method]().search(toy_problem(), Budget()).best.latency_s <= best_s


def program_of(seed: int) -> WidthProgram:
    """Random losses and tables of four groups; some combinations cannot be chosen."""
    rng = np.random.default_rng(seed)
    widths = tuple(
        tuple(
            sorted(
                int(w) for w in rng.choice(np.arange(1, 40), int(rng.integers(1, 5)), replace=False)
            )
        )
        for _ in range(4)
    )
    losses = tuple(-np.sort(-rng.uniform(0, 0.03, len(w))) for w in widths)
    tables = {
        groups: rng.uniform(1e-6, 1e-3, [len(widths[g]) for g in groups])
        for groups in ((), (0,), (2,), (0, 1), (1, 2), (1, 2, 3))
    }
    tables[1, 2][rng.random(tables[1, 2].shape) < 0.1] = math.inf
    return WidthProgram(widths, losses, tables)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_program_finds_what_enumeration_finds(seed: int) -> None:
    program = program_of(seed)
    every = []
    for chosen in itertools.product(*(range(len(w)) for w in program.widths)):
        seconds = sum(
            float(table[tuple(chosen[g] for g in groups)])
            for groups, table in program.tables.items()
        )
        every.append(
            (
                seconds,
                sum(float(losses[at]) for losses, at in zip(program.losses, chosen, strict=True)),
            )
        )
    rng = np.random.default_rng(seed)
    seconds_allowed = (
        float(np.quantile([s for s, _ in every if math.isfinite(s)] or [1.0], rng.random())) * 1.001
    )
    loss_allowed = float(np.quantile([lost for _, lost in every], rng.random())) * 1.001
    exact = SolverLimits(60.0, 0.0)
    fastest = min((s for s, lost in every if lost <= loss_allowed), default=math.inf)
    found = program.least_latency(loss_allowed, exact)
    assert (math.inf if found is None else found.latency_s) == pytest.approx(fastest, rel=1e-6)
    if found is not None:
        assert found.is_optimal
        assert found.loss <= loss_allowed
        assert found.bound == pytest.approx(found.latency_s, rel=1e-6)
    least = min((lost for s, lost in every if s <= seconds_allowed), default=math.inf)
    found = program.least_loss(seconds_allowed, exact)
    assert (math.inf if found is None else found.loss) == pytest.approx(least, rel=1e-6, abs=1e-9)
    assert found is None or found.latency_s <= seconds_allowed


def test_a_programs_tables_add_up_to_the_predictions() -> None:
    problem = open_replay("resnet8@znver4-1t", -0.02).problem
    legal = SearchSession(problem, Budget()).widths
    program = WidthProgram.from_problem(
        problem,
        legal,
        problem.loss_model,
        plan=problem.network.dense,
        varied=problem.network.touched_groups,
    )
    rng = np.random.default_rng(0)
    for _ in range(10):
        chosen = [int(rng.integers(len(w))) for w in legal]
        plan = Plan(tuple(w[at] for w, at in zip(legal, chosen, strict=True)))
        seconds = sum(
            float(table[tuple(chosen[g] for g in groups)])
            for groups, table in program.tables.items()
        )
        assert seconds == pytest.approx(problem.predicted_s(plan))
        assert sum(
            float(losses[at]) for losses, at in zip(program.losses, chosen, strict=True)
        ) == pytest.approx(problem.predicted_loss(plan))


def test_where_all_is_known_no_search_is_faster_than_the_exact_one() -> None:
    replay = open_replay("resnet8@znver4-1t", -0.02, ReplaySettings(perfect_information=True))
    exact = Exact(replay.true_losses).search(replay.problem, Budget())
    assert exact.history[0].why == "proven optimal"
    assert replay.holds(exact.best.plan)
    other = SurrogateSearch().search(
        open_replay("resnet8@znver4-1t", -0.02, ReplaySettings(perfect_information=True)).problem,
        Budget(),
    )
    assert exact.best.latency_s <= other.best.latency_s * (1 + 1e-9)


def test_netadapt_pays_for_every_candidate() -> None:
    problem = toy_problem()
    result = NetAdapt().search(problem, Budget())
    judged = {s.plan for s in result.history if s.accuracy is not None}
    assert result.cost["accuracy_evaluations"] == len(judged)
    assert len(judged) > len(result.accepted), "candidates that were not kept are paid for too"


def test_fastnas_pays_for_its_map() -> None:
    result = FastNAS(n_widths=4).search(toy_problem(), Budget())
    entries = [s for s in result.history if s.what.startswith("map: ")]
    assert len(entries) == sum(
        min(4, len(w) - 1) for w in SearchSession(toy_problem(), Budget()).widths
    )
    assert not any(s.accepted for s in entries), (
        "a plan of the map is not measured, so it is no answer"
    )
    assert result.cost["accuracy_evaluations"] == len(
        {s.plan for s in result.history if s.accuracy is not None}
    )


def test_a_map_takes_no_more_than_half_of_the_evaluations() -> None:
    result = FastNAS().search(toy_problem(), Budget(accuracy_evaluations=8))
    assert sum(s.what.startswith("map: ") for s in result.history) <= 4
    assert result.best.latency_s < result.accepted[0].latency_s
