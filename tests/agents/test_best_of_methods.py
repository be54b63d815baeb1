"""Three methods within one budget."""

from dataclasses import replace

from cprune_rl.agents.core.back_off import fastest_passing, fastest_verified, kept_plan
from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.planner.best_of_methods import BestOfMethods
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.planner.verified_search import VerifiedSearch, VerifiedSettings
from cprune_rl.envs.planning.evaluation_state import PlanningSettings
from cprune_rl.envs.problems.replay import Replay, ReplaySettings, open_replay

NO_ANNEALING = PlanningSettings(cautions=(), last_cautions=())
VERIFIED = VerifiedSearch(VerifiedSettings(planning=PlanningSettings(first_steps=600, steps=300)))
BUDGET = Budget(accuracy_evaluations=18, full_finetunes=2)


def replayed() -> Replay:
    return open_replay("resnet8@znver4-1t", -0.01, ReplaySettings(gate_images=50_000))


def test_each_gets_its_share_and_all_is_charged() -> None:
    result, _ = search_within(BestOfMethods(VERIFIED), replayed().problem, BUDGET)
    asked = [step for step in result.history if step.accuracy is not None and not step.n_looks]
    by_agent = [step for step in asked if step.what.startswith("cheap")]
    assert result.method == "best"
    assert len(asked) >= result.cost["accuracy_evaluations"] >= len(asked) - 3, (
        "an answer that one of them repeats is paid for once"
    )
    assert 10 <= len(asked) - len(by_agent) <= 12, "MDP and CPrune had a third each"
    assert by_agent
    assert 1 <= len(result.looks) <= 2
    assert result.cost["fresh_trials"] > 0


def test_a_plan_of_a_rival_is_kept_where_the_agent_has_no_better_one() -> None:
    replay = replayed()
    no_plans = VerifiedSearch(VerifiedSettings(n_cheap=0, planning=NO_ANNEALING))
    result, _ = search_within(BestOfMethods(no_plans), replay.problem, BUDGET)
    kept = fastest_verified(result)
    assert kept == kept_plan(result, replay.passes)[0]
    whys = [step.why for step in result.looks]
    assert any(why.startswith("held in the loop") for why in whys)


def test_without_a_gate_to_ask_all_that_held_is_backed_off_from() -> None:
    agent = SurrogateSearch(SurrogateSettings(turns=1))
    replay = replayed()
    problem = replace(replay.problem, full_finetunes=None, known_losses=())
    result, _ = search_within(BestOfMethods(agent), problem, Budget(accuracy_evaluations=24))
    assert not result.looks
    kept, n_asked = fastest_passing(result.accepted, replay.passes)
    assert n_asked >= 1
    assert kept.latency_s < result.accepted[0].latency_s
