"""No search can spend past its budget, and each keeps what it had found by then."""

from collections.abc import Callable

import pytest

from cprune_rl.agents.baselines.ablations import cprune_by_prediction
from cprune_rl.agents.baselines.annealing import Annealing
from cprune_rl.agents.baselines.bayesian import Bayes
from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.cprune_published import PublishedCPrune
from cprune_rl.agents.baselines.evolution import Evolution
from cprune_rl.agents.baselines.fastnas import FastNAS
from cprune_rl.agents.baselines.halp import HALP
from cprune_rl.agents.baselines.mdp import MDP
from cprune_rl.agents.baselines.netadapt import NetAdapt
from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.surrogate import SurrogateSearch
from cprune_rl.envs.problems.replay import TRIALS_PER_TASK, ReplaySettings, open_replay
from cprune_rl.testing import toy_problem


class Spendthrift(SessionSearcher):
    """Tries one plan after another, whatever it is allowed."""

    name = "spendthrift"

    def run(self, session: SearchSession) -> None:
        dense = session.problem.network.dense
        for at in range(2, 10):
            for group, widths in enumerate(session.widths):
                plan = dense.with_width(group, widths[-min(at, len(widths))])
                session.try_once(plan, f"{at} narrower")


def test_a_search_that_ignores_its_budget_is_stopped_with_what_it_has() -> None:
    problem = open_replay("resnet8@znver4-1t").problem
    before = problem.latency.spending.fresh_trials
    result, is_stopped = search_within(Spendthrift(), problem, Budget(accuracy_evaluations=3))
    assert is_stopped
    assert result.cost["accuracy_evaluations"] == 3
    assert len(result.accepted) > 1, "what it had found is kept"
    assert result.best.latency_s < result.accepted[0].latency_s
    limit = 5 * TRIALS_PER_TASK
    problem = open_replay("resnet8@znver4-1t").problem
    result, is_stopped = search_within(Spendthrift(), problem, Budget(fresh_trials=limit))
    assert is_stopped
    assert result.cost["fresh_trials"] <= limit
    assert problem.latency.spending.fresh_trials - before <= limit, "what the source says was spent"


def test_time_is_a_budget_too() -> None:
    result, is_stopped = search_within(Spendthrift(), toy_problem(), Budget(minutes=0.0))
    assert is_stopped
    assert len(result.accepted) == 1, "the dense network is always an answer"


def test_a_search_that_ends_by_itself_is_not_said_to_have_been_stopped() -> None:
    free, guarded = (
        CPrune().search(toy_problem(), Budget()),
        search_within(CPrune(), toy_problem(), Budget(10_000, 10_000)),
    )
    assert not guarded[1]
    assert guarded[0].accepted == free.accepted
    assert {k: v for k, v in guarded[0].cost.items() if k != "wall_s"} == {
        k: v for k, v in free.cost.items() if k != "wall_s"
    }


@pytest.mark.parametrize("trials", [0, 100, 700])
@pytest.mark.parametrize("evaluations", [0, 1, 7])
@pytest.mark.parametrize(
    "make",
    [
        *(
            CPrune,
            PublishedCPrune,
            Evolution,
            Annealing,
            SurrogateSearch,
            HALP,
            MDP,
            NetAdapt,
            FastNAS,
        ),
        lambda: Bayes(20),
        cprune_by_prediction,
    ],
)
def test_no_search_passes_any_budget(
    make: Callable[[], Searcher], trials: int, evaluations: int
) -> None:
    problem = open_replay("vgg-small@znver4-1t", -0.02).problem
    before = problem.latency.spending.fresh_trials
    result, _ = search_within(make(), problem, Budget(trials, evaluations))
    assert result.cost["fresh_trials"] <= trials
    assert result.cost["accuracy_evaluations"] <= evaluations
    assert problem.latency.spending.fresh_trials - before <= trials
    assert problem.oracle.spending.accuracy_evaluations <= evaluations
    assert result.accepted[0].plan == problem.network.dense


def test_a_search_by_predictions_measures_what_it_came_to_though_its_evaluations_are_spent() -> (
    None
):
    problem = open_replay("resnet8@znver4-1t").problem
    result, _ = search_within(
        cprune_by_prediction(),
        problem,
        Budget(accuracy_evaluations=6),
    )
    assert result.cost["accuracy_evaluations"] <= 6
    assert len(result.accepted) > 1
    assert len(result.history) <= 4, "the winner and what it may back off to, no more"


def test_what_measurements_would_have_taken_counts_as_time() -> None:
    problem = open_replay("resnet8@znver4-1t").problem
    result, is_stopped = search_within(
        CPrune(),
        problem,
        Budget(minutes=1.0),
        other_s=lambda: 20.0 * problem.oracle.spending.accuracy_evaluations,
    )
    assert is_stopped
    assert result.cost["accuracy_evaluations"] == 3


def test_the_published_algorithm_pays_for_tuning_every_task_of_every_candidate() -> None:
    problem = open_replay("resnet8@znver4-1t", settings=ReplaySettings(warm_start=False)).problem
    before = problem.latency.spending.fresh_trials
    result = PublishedCPrune().search(problem, Budget())
    tasks = [len({w.key for w in problem.network.workloads(step.plan)}) for step in result.history]
    assert problem.latency.spending.fresh_trials - before == 70 * sum(tasks)
    assert len(result.accepted) > 1
    assert all(
        a.latency_s <= 0.99 * b.latency_s
        for b, a in zip(result.accepted, result.accepted[1:], strict=False)
    ), "each step is as much faster as it asks for"
