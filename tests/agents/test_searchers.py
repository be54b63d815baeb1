"""Every searcher against the conformance suite, and training that learns."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from cprune_rl.agents.baselines.ablations import (
    agent_by_macs,
    agent_by_shuffled_tasks,
    cprune_by_prediction,
)
from cprune_rl.agents.baselines.annealing import Annealing
from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.cprune_published import PublishedCPrune
from cprune_rl.agents.baselines.evolution import Evolution
from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.baselines.random_search import RandomSearch
from cprune_rl.agents.baselines.uniform import Uniform
from cprune_rl.agents.core.back_off import back_off, pareto_front
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.core.session import SearchSession
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.model_problem import model_problem
from cprune_rl.agents.planner.surrogate import SurrogateSearch
from cprune_rl.agents.rl.best_of_walks import BestOfWalks
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.envs.problems.replay import ReplaySettings, open_replay
from cprune_rl.testing import AnalyticOracle, check_searcher, toy_problem

SMALL = TrainingSettings(
    total_timesteps=512, n_envs=8, max_rows=8, options={"n_steps": 16, "batch_size": 64}
)


def train_small(seed: int = 0) -> PruningAgent:
    trained = train_policy(
        lambda rng: toy_problem(drop=float(rng.choice([0.01, 0.03]))),
        TrainingSettings(**{**vars(SMALL), "seed": seed}),
    )
    return PruningAgent(trained.policy)


@pytest.fixture(scope="module")
def agent() -> PruningAgent:
    return train_small()


@pytest.fixture(
    params=[
        *(
            "cprune",
            "proxy-greedy",
            "surrogate",
            "roll-out",
            "agent",
            "best-of-k",
            "cprune-published",
            "uniform",
            "random",
            "evolution",
            "annealing",
        ),
        *("rb-cprune", "agent-macs", "agent-shuffled"),
    ]
)
def make(request: pytest.FixtureRequest, agent: PruningAgent) -> Callable[[], Searcher]:
    """Each searcher in turn."""
    ways: dict[str, Callable[[], Searcher]] = {
        "cprune": CPrune,
        "proxy-greedy": ProxyGreedy,
        "surrogate": SurrogateSearch,
        "roll-out": lambda: PolicyRollOut(agent.policy),
        "agent": lambda: agent,
        "best-of-k": lambda: BestOfWalks(agent.policy),
        "cprune-published": PublishedCPrune,
        "uniform": Uniform,
        "random": lambda: RandomSearch(max_plans=60),
        "evolution": lambda: Evolution(max_plans=60),
        "annealing": lambda: Annealing(max_plans=60),
        "rb-cprune": cprune_by_prediction,
        "agent-macs": lambda: agent_by_macs(agent.policy),
        "agent-shuffled": lambda: agent_by_shuffled_tasks(agent.policy),
    }
    return ways[request.param]


def test_every_searcher_passes_the_conformance_suite(make: Callable[[], Searcher]) -> None:
    result = check_searcher(make, toy_problem)
    assert result.best.latency_s < result.accepted[0].latency_s


def test_where_the_model_is_right_planning_in_it_is_no_worse_than_walking_the_problem(
    agent: PruningAgent,
) -> None:
    whole = agent.search(toy_problem(), Budget()).best.latency_s
    assert all(
        whole <= part.search(toy_problem(), Budget()).best.latency_s
        for part in (PolicyRollOut(agent.policy), ProxyGreedy())
    )


def test_the_same_seed_and_recorded_costs_give_the_same_plan() -> None:
    plans = {train_small(seed=3).search(open_recorded(), Budget()).best.plan for _ in range(2)}
    assert len(plans) == 1


def test_a_walk_through_the_model_pays_for_nothing(agent: PruningAgent) -> None:
    replay = open_replay("resnet8@znver4-1t", -0.02)
    problem = replay.problem
    before = (
        dataclasses.asdict(problem.latency.spending),
        dataclasses.asdict(problem.oracle.spending),
    )
    found = PolicyRollOut(agent.policy).search(model_problem(problem, problem.loss_model), Budget())
    assert found.best.plan != problem.network.dense
    assert (
        dataclasses.asdict(problem.latency.spending),
        dataclasses.asdict(problem.oracle.spending),
    ) == before


def test_the_agent_tells_what_its_policy_planned_and_leaves_something_to_back_off_to(
    agent: PruningAgent,
) -> None:
    replay = open_replay("resnet8@znver4-1t", -0.02, ReplaySettings(seed=1))
    problem = replay.problem
    found = agent.search(problem, Budget())
    planned = [s for s in found.history if "roll-out in the model" in s.what]
    assert planned
    assert all("score" in s.why for s in planned)
    assert planned[0].expected_gain is not None
    front = pareto_front(found.accepted)
    assert any(r.accuracy - problem.floor > 0.2 * problem.slack for r in front[1:]), (
        "not all is staked on plans that hold by a hair"
    )
    assert [r.latency_s for r in front] == sorted((r.latency_s for r in front), reverse=True)
    kept = back_off(front, lambda at: replay.holds(front[at].plan))
    assert replay.holds(front[kept].plan)


@pytest.mark.parametrize("drop", [0.0025, 0.01])
def test_there_is_something_to_back_off_to_where_the_narrowest_plan_seems_to_hold(
    drop: float,
) -> None:
    problem = toy_problem(widths=(64, 128, 128), drop=drop)
    kind = dataclasses.replace(
        problem,
        oracle=AnalyticOracle(problem.network, scale=drop / 6),
        loss_model=dataclasses.replace(problem.loss_model, scale=np.full(3, drop / 3)),
    )
    narrowest = problem.network.uniform(1 / 8)
    session = SearchSession(kind, Budget())
    session.start()
    SurrogateSearch().take_turns(session, lambda model: (narrowest, ""))
    found = session.result("toy")
    assert found.best.plan == narrowest
    shares = [plan.latency_s / found.accepted[0].latency_s for plan in pareto_front(found.accepted)]
    assert any(2 * shares[-1] < share < 0.75 for share in shares), shares
