"""The search that asks the final gate: what it spends, what it keeps, and what it plans for."""

from dataclasses import replace

import numpy as np
import pytest

from cprune_rl.agents.core.back_off import fastest_verified, kept_plan
from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.planner.verified_search import VerifiedSearch, VerifiedSettings
from cprune_rl.core.loss_model import KnownLoss
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.planning.evaluation_state import PlanningSettings
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.replay import Replay, ReplaySettings, open_replay
from cprune_rl.errors import ConfigError
from cprune_rl.testing import toy_problem

NO_ANNEALING = PlanningSettings(cautions=(), last_cautions=())
NAME = "resnet8@znver4-1t"


def replayed(seed: int = 0, gate_images: int = 50_000) -> Replay:
    return open_replay(NAME, -0.01, ReplaySettings(seed=seed, gate_images=gate_images))


def searched(replay: Replay, budget: Budget | None = None) -> SearchResult:
    search = VerifiedSearch(VerifiedSettings(planning=PlanningSettings(first_steps=600, steps=300)))
    return search.search(replay.problem, budget or Budget())


def test_it_keeps_the_fastest_plan_that_the_gate_let_pass() -> None:
    replay = replayed()
    result = searched(replay)
    assert 1 <= len(result.looks) <= 3
    assert result.cost["full_finetunes"] == len(result.looks)
    assert result.cost["accuracy_evaluations"] <= 24
    kept, n_asked = kept_plan(result, replay.passes)
    assert n_asked == 0, "the search has asked the gate itself"
    assert kept == fastest_verified(result)
    passed = [step for step in result.looks if step.accepted]
    assert kept.latency_s == min(step.latency_s for step in passed) < result.accepted[0].latency_s
    assert replay.passes(kept.plan, result.looks[0].n_looks)
    assert SearchResult.from_json(result.to_json()) == result


def test_no_plan_is_fine_tuned_twice_and_each_promises_more_than_the_best() -> None:
    result = searched(replayed(seed=1))
    plans = [step.plan for step in result.looks]
    assert len(set(plans)) == len(plans)
    best_s = result.accepted[0].latency_s
    for step in result.looks:
        assert step.latency_s < best_s
        if step.accepted:
            best_s = step.latency_s


@pytest.mark.parametrize("n_full", [0, 1, 2])
@pytest.mark.parametrize("n_cheap", [0, 5])
def test_no_look_past_the_budget(n_full: int, n_cheap: int) -> None:
    budget = Budget(accuracy_evaluations=n_cheap, full_finetunes=n_full)
    replay = replayed()
    result, _ = search_within(VerifiedSearch(), replay.problem, budget)
    assert result.cost["full_finetunes"] <= n_full
    assert result.cost["accuracy_evaluations"] <= n_cheap
    assert all(step.n_looks == n_full for step in result.looks), "the gate is told how often"


def test_a_gate_of_few_images_gets_more_cautious_plans() -> None:
    def first_loss(n_images: int) -> float:
        replay = replayed(gate_images=n_images)
        first = searched(replay, Budget(accuracy_evaluations=0, full_finetunes=1)).looks[0]
        return replay.problem.dense_accuracy - replay.accuracy(first.plan)

    assert first_loss(2_000) < first_loss(1_000_000)


def test_a_plan_that_somebody_proposes_is_taken_where_it_promises_most() -> None:
    replay = replayed()
    asked: list[Problem] = []

    def propose(model: Problem) -> tuple[Plan, str]:
        asked.append(model)
        assert model.oracle.accuracy(model.network.uniform(0.7)).value < model.dense_accuracy
        return model.network.uniform(0.9), "a guess"

    settings = VerifiedSettings(n_cheap=0, n_full=1, planning=NO_ANNEALING)
    VerifiedSearch(settings, propose).search(replay.problem, Budget())
    assert len(asked) == 1
    assert replay.problem.oracle.spending.accuracy_evaluations == 0, "a model costs nothing"


def test_a_plan_of_the_calibration_is_asked_for_where_nothing_else_is_sure() -> None:
    replay = replayed()
    problem = replay.problem
    known = problem.network.uniform(0.5)
    assert problem.full_finetunes is not None
    loss = 0.7 * problem.full_finetunes.gate.planned_loss(1)
    as_known = problem.loss_model.scaled(
        np.full(problem.loss_model.n_units, loss / problem.predicted_loss(known))
    )
    answer = KnownLoss(known, loss, 1e-4)
    settings = VerifiedSettings(n_cheap=0, n_full=1, planning=NO_ANNEALING)
    told = replace(problem, loss_model=as_known, known_losses=(answer,))
    (look,) = VerifiedSearch(settings).search(told, Budget()).looks
    assert look.plan == known
    assert look.why.startswith("calibration")


def test_a_problem_without_full_finetunes_is_refused() -> None:
    with pytest.raises(ConfigError, match="lets no search ask the final gate"):
        VerifiedSearch().search(toy_problem(), Budget())


def test_what_is_known_before_the_search_is_learnt_from() -> None:
    replay = replayed()
    blind = replace(replay.problem, known_losses=())
    settings = VerifiedSettings(n_cheap=0, n_full=1)
    first, other = (
        VerifiedSearch(settings).search(problem, Budget()).looks[0].plan
        for problem in (replay.problem, blind)
    )
    assert first != other
