"""The purchase of evaluations: budgets, rewards, legal actions, and an untrained policy."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.envs.evaluations import EVALUATION_COLUMNS, EvaluationsEnv
from cprune_rl.envs.observation import N_GLOBALS
from cprune_rl.envs.planning.evaluation_state import PlanningSettings
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.replay import ReplaySettings, open_replay
from cprune_rl.errors import ConfigError, DeviceError, UnknownNameError
from cprune_rl.testing import toy_problem

QUICK = PlanningSettings(cautions=(0.0, 1.0), last_cautions=(2.0,), first_steps=200, steps=80)


def make_env(**options: object) -> EvaluationsEnv:
    return EvaluationsEnv(max_rows=6, planning=QUICK, **options)  # type: ignore[arg-type]


def legal_actions(env: EvaluationsEnv) -> list[int]:
    return [int(action) for action in env.action_masks()[:-1].nonzero()[0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_return_is_the_log_gain_less_the_price_of_the_seconds(seed: int) -> None:
    env = make_env(n_cheap=3, n_full=2, cost_per_s=2e-4)
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    total = 0.0
    n_asked = [0, 0]
    ended = False
    while not ended:
        action = int(rng.choice(legal_actions(env)))
        n_asked[action % 2] += 1
        _, reward, ended, _, info = env.step(action)
        total += reward
    gain = math.log(info["dense_latency_s"] / info["latency_s"])
    assert total == pytest.approx(gain - 2e-4 * info["seconds"])
    assert info["seconds"] >= 2.4 * n_asked[0] + 48 * n_asked[1]
    assert n_asked[0] <= 3
    assert n_asked[1] <= 2
    replay_problem = env.problem
    assert replay_problem.oracle.spending.accuracy_evaluations == n_asked[0]
    assert replay_problem.full_finetunes is not None
    assert replay_problem.full_finetunes.spending.full_finetunes == n_asked[1]


def test_what_is_legal() -> None:
    env = make_env(n_cheap=1, n_full=2)
    _, info = env.reset(seed=0)
    asked = info["candidates"][0]
    _, _, _, _, info = env.step(0)
    assert info["asked"] == asked
    assert all(action % 2 == 1 for action in legal_actions(env)), "no cheap evaluation is left"
    row = info["candidates"].index(asked)
    _, _, _, _, info = env.step(2 * row + 1)
    assert asked not in info["candidates"], "it was asked about in full"
    before = info["seconds"]
    _, reward, ended, _, info = env.step(2 * 5)
    assert (reward, ended, info["error_type"]) == (0.0, False, "illegal_action")
    assert info["seconds"] == before
    _, reward, ended, _, _ = env.step(env.stop_action)
    assert (reward, ended) == (0.0, True)


def test_candidates_promise_more_than_what_passed_and_begin_with_the_most_promising() -> None:
    env = make_env(n_cheap=0)
    observation, info = env.reset(seed=1)
    ended = False
    while not ended:
        improvement = observation[:, EVALUATION_COLUMNS.index("log_improvement_full")]
        n_rows = len(info["candidates"])
        assert (np.diff(improvement[:n_rows]) <= 1e-6).all()
        assert (observation[:n_rows, EVALUATION_COLUMNS.index("log_gain")] > 0).all()
        assert not observation[n_rows:].any()
        observation, _, ended, _, info = env.step(1)


def test_an_untrained_policy_buys_by_expected_improvement_for_the_price() -> None:
    """`RowPolicy` finds score and row where it looks for them."""
    assert len([n for n in EVALUATION_COLUMNS if n.startswith("score")]) == 2
    first_score = len(EVALUATION_COLUMNS) - N_GLOBALS - 2
    assert EVALUATION_COLUMNS[first_score : first_score + 2] == ("score_cheap", "score_full")
    env = make_env()
    observation, _ = env.reset(seed=2)
    torch.manual_seed(0)
    policy = RowPolicy(env.observation_space, env.action_space, lambda _: 0.0, prior=100.0)
    for _ in range(4):
        mask = env.action_masks()
        action, _ = policy.predict(observation, action_masks=mask, deterministic=True)
        scores = observation[:, first_score : first_score + 2].ravel()
        best = int(np.where(mask[:-1], scores, -np.inf).argmax())
        assert int(action) == (best if scores[best] > -0.02 else env.stop_action)
        observation, _, ended, _, _ = env.step(int(action))
        if ended:
            break


def test_a_cheap_answer_is_worth_nothing_where_it_cannot_change_the_choice() -> None:
    env = make_env()
    env.reset(seed=0)
    candidate, *others = env.state.candidates()
    asked = env.state.cheap_improvement(candidate, others, 0.0025)
    assert asked > 0
    assert env.state.cheap_improvement(candidate, others, 1e3) < 1e-3 * asked


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_plan_that_cannot_be_measured_is_a_value(is_gone: bool) -> None:
    replay = open_replay("resnet8@znver4-1t", -0.01, ReplaySettings(gate_images=50_000))
    dense_s = replay.problem.measured_s(replay.problem.network.dense)

    class Breaking:
        """Measures the dense network alone."""

        spending = Spending()

        def measure(self, plan: object) -> list[TaskCost]:
            costs = replay.problem.latency.measure(replay.problem.network.dense)
            if plan == replay.problem.network.dense:
                return costs
            if is_gone:
                raise DeviceError("the device is gone")
            return [TaskCost(latency_s=math.inf, error="it broke") for _ in costs]

        def predict(self, workloads: list[Workload]) -> list[TaskCost]:
            return replay.problem.latency.predict(workloads)

    env = make_env(problem=replace(replay.problem, latency=Breaking()))
    env.reset(seed=0)
    _, reward, ended, _, info = env.step(1)
    assert info["error_type"] == ("device" if is_gone else "measurement")
    assert reward < 0
    assert ended == is_gone
    assert info["latency_s"] == pytest.approx(dense_s)


def test_the_page_names_every_key_of_info() -> None:
    env = make_env()
    _, info = env.reset(seed=0)
    keys = set(info)
    for action in (0, 1, 2 * 5, env.stop_action):
        *_, info = env.step(action)
        keys |= set(info)
    assert keys <= set(re.findall(r"\| `(\w+)` \|", str(EvaluationsEnv.__doc__)))


def test_problems_are_given_by_name_by_value_or_by_a_sampler() -> None:
    settings = ReplaySettings(seed=3, gate_images=10_000)
    problem = open_replay("vgg-small@znver4-1t", -0.01, settings).problem

    def sample(_: np.random.Generator) -> Problem:
        return problem

    for choice in (problem, sample):
        env = make_env(problem=choice)
        env.reset(seed=0)
        assert env.problem is problem
        assert env.render_mode is None
        assert env.render() is None
    _, info = make_env().reset(seed=0, options={"problem": "resnet20@znver4-1t:-0.02"})
    assert len(info["plan"].widths) == 12


def test_the_text_shows_the_candidates() -> None:
    env = make_env(render_mode="ansi")
    env.reset(seed=0)
    text = str(env.render())
    assert "12 cheap and 3 full evaluations left" in text
    assert len(text.splitlines()) > 2


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="needs a full evaluation"):
        make_env(n_full=0)
    with pytest.raises(ConfigError, match="no price"):
        make_env(cost_per_s=-1.0)
    with pytest.raises(UnknownNameError, match="problem"):
        make_env().reset(options={"floor": -0.01})
    with pytest.raises(ConfigError, match="lets no search ask the final gate"):
        make_env(problem=toy_problem()).reset()
    with pytest.raises(ConfigError, match="problem 7"):
        make_env(problem=7).reset()
