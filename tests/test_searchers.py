"""Every searcher against the conformance suite, and training that learns."""

from collections.abc import Callable

import numpy as np
import pytest

from cprune_rl.agents.agent import PolicyRollOut, PruningAgent
from cprune_rl.agents.greedy import GreedyCPrune
from cprune_rl.agents.proxy_greedy import ProxyGreedy
from cprune_rl.agents.searcher import Budget, Searcher
from cprune_rl.agents.surrogate import SurrogateSearch
from cprune_rl.agents.training import TrainingSettings, train_policy
from cprune_rl.cost_cache.interpolation import CostModel
from cprune_rl.cost_cache.recorded import RecordedCosts
from cprune_rl.envs.problems import TrainingProblems, open_recorded
from cprune_rl.testing import FailingCosts, check_searcher, toy_problem

SMALL = TrainingSettings(total_timesteps=512, n_envs=8, max_rows=8, options={"n_steps": 16, "batch_size": 64})


def train_small(seed: int = 0) -> PruningAgent:
    trained = train_policy(lambda rng: toy_problem(drop=float(rng.choice([0.01, 0.03]))), TrainingSettings(**{**vars(SMALL), "seed": seed}))
    return PruningAgent(trained.policy)


@pytest.fixture(scope="module")
def agent() -> PruningAgent:
    return train_small()


@pytest.fixture(params=["greedy", "proxy-greedy", "surrogate", "roll-out", "agent"])
def make(request: pytest.FixtureRequest, agent: PruningAgent) -> Callable[[], Searcher]:
    """Each searcher in turn."""
    ways: dict[str, Callable[[], Searcher]] = {
        "greedy": GreedyCPrune,
        "proxy-greedy": ProxyGreedy,
        "surrogate": SurrogateSearch,
        "roll-out": lambda: PolicyRollOut(agent.policy),
        "agent": lambda: agent,
    }
    return ways[request.param]


def test_every_searcher_passes_the_conformance_suite(make: Callable[[], Searcher]) -> None:
    result = check_searcher(make, toy_problem)
    assert result.best.latency_s < result.accepted[0].latency_s


def test_the_agent_is_no_worse_than_any_of_its_parts(agent: PruningAgent) -> None:
    whole = agent.search(toy_problem(), Budget()).best.latency_s
    assert all(whole <= part.search(toy_problem(), Budget()).best.latency_s for part in (PolicyRollOut(agent.policy), ProxyGreedy()))


def test_the_same_seed_and_recorded_costs_give_the_same_plan() -> None:
    plans = {train_small(seed=3).search(open_recorded(), Budget()).best.plan for _ in range(2)}
    assert len(plans) == 1


def test_a_search_in_which_nothing_can_be_measured_ends_with_the_dense_plan(make: Callable[[], Searcher]) -> None:
    problem = toy_problem(costs=FailingCosts)
    assert make().search(problem, Budget()).best.plan == problem.network.dense


def test_a_floor_that_no_step_holds_ends_with_the_dense_plan(make: Callable[[], Searcher]) -> None:
    problem = toy_problem(drop=0.0)
    assert make().search(problem, Budget()).best.plan == problem.network.dense


def test_training_problems_vary_and_stay_solvable() -> None:
    recorded = open_recorded()
    assert isinstance(recorded.latency, RecordedCosts)
    model = CostModel(recorded.latency.measured())
    problems = TrainingProblems(recorded.network, model, recorded.curves, recorded.dense_accuracy, recorded.descriptor)
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(8)]
    half = recorded.network.uniform(0.5)
    assert len({p.floor for p in drawn}) > 1
    assert len({p.oracle.accuracy(half).value for p in drawn}) == 8
    assert len({sum(c.latency_s for c in p.latency.measure(half)) for p in drawn}) == 8
    for problem in drawn:
        assert problem.latency.predict(problem.network.workloads(half)) == problem.latency.measure(half), "a look that was taken is known"
