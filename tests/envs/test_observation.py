"""What an agent sees and may do, against a slow implementation that shares nothing with the fast
one; order and padding of rows.
"""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.legal_steps import width_after_steps
from cprune_rl.core.network import Plan
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.channel_actions import STEP_COUNTS
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.observation import FEATURES, N_FEATURES, N_GLOBALS
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.testing import toy_problem

ROWS = 20
N_COUNTS = len(STEP_COUNTS)


def slow_moves(env: CPruneEnv) -> dict[int, Plan]:
    """Each legal action and the plan it leads to, group by group."""
    problem, state = env.problem, env.state
    legal = {}
    for r, row in enumerate(state.table.rows[:ROWS]):
        for w, count in enumerate(STEP_COUNTS):
            widths, can = list(state.plan.widths), bool(row.groups)
            for g in row.groups:
                width = state.plan.widths[g]
                for _ in range(count):  # one legal step after the other
                    width = width_after_steps(width, state.table.steps[g], 1)
                can = (
                    can and width >= problem.network.groups[g].minimum and width > state.rejected[g]
                )
                widths[g] = width
            if can:
                legal[r * N_COUNTS + w] = Plan(tuple(widths))
    return legal


def slow_observation(env: CPruneEnv) -> NDArray[np.float64]:
    """The observation, a value at a time."""
    problem, state = env.problem, env.state
    network, dense = problem.network, problem.network.dense.widths
    kept = [w / d for w, d in zip(state.plan.widths, dense, strict=True)]

    def curve(group: int, ratio: float) -> float:
        return float(
            problem.loss_model.scale[group] * (1 - ratio) ** problem.loss_model.power[group]
        )

    total = state.table.latency_s
    mean_dense = state.start_latency_s / len(network.subgraphs)
    slack = max(state.accuracy - problem.floor, 0.0) * 100
    drop = (problem.dense_accuracy - problem.floor) * 100
    moves = slow_moves(env)
    result = np.zeros((ROWS, N_FEATURES))
    for r, row in enumerate(state.table.rows[:ROWS]):
        share = row.weight * row.latency_s / total
        operator = row.workload.operator
        read = [g for g in network.touched_groups[row.subgraphs[0]] if g not in row.groups]
        n_written = max(len(row.groups), 1)
        realised, predicted = (
            sum(state.observed_loss[g] for g in row.groups),
            sum(state.predicted_loss[g] for g in row.groups),
        )
        trust = min(max((realised * 100 + 0.1) / (predicted * 100 + 0.1), 0.2), 5.0)
        columns = {
            "valid": 1.0,
            "log_share": math.log(max(share, 1e-4)) + 3,
            "share": 3 * share,
            "weight": row.weight / 3,
            "log2_channels_in": math.log2(row.workload.channels_in) / 4 - 1.5,
            "log2_channels_out": math.log2(row.workload.channels_out) / 4 - 1.5,
            "kept_in": sum(kept[g] for g in read) / len(read) if read else 1.0,
            "kept_out": sum(kept[g] for g in row.groups) / len(row.groups) if row.groups else 1.0,
            "log_latency": math.log(row.latency_s / mean_dense) / 2,
            "log_density": (math.log(max(2 * row.workload.macs, 1) / row.latency_s) - 23) / 2,
            "n_groups": len(row.groups) / 3,
            "is_depthwise": float(operator.name == "depthwise"),
            "is_dense": float(operator.name == "dense"),
            "is_3x3": float(operator.kernel == 3),
            "stride": operator.stride - 1.0,
            "log2_height": math.log2(max(operator.height, 1)) / 3,
            "log_importance": math.log(
                sum(problem.loss_model.scale[g] for g in row.groups) * 100 + 0.01
            )
            / 2,
            "curvature": sum(problem.loss_model.power[g] for g in row.groups) / n_written - 2,
            "log_realised_over_predicted": math.log(trust),
            "evidence": min(predicted * 100, 2.0),
            "log_slack": math.log(slack + 0.01) / 2,
            "slack_share": min(slack / max(drop, 1e-6), 2.0),
            "floor_drop": drop / 3,
            "log_gain_so_far": math.log(state.start_latency_s / total),
            "steps": min(state.n_steps / 60, 1.0),
            "rejections": state.n_rejections / 8,
        }
        for name, value in zip(
            problem.descriptor.vector_names(), problem.descriptor.vector(), strict=True
        ):
            columns[f"device_{name}"] = value
        for w, count in enumerate(STEP_COUNTS):
            plan = moves.get(r * N_COUNTS + w)
            gain = loss = removed = 0.0
            if plan is not None:
                after = [a / d for a, d in zip(plan.widths, dense, strict=True)]
                removed = sum(1 - a / b for a, b in zip(after, kept, strict=True)) / n_written
                loss = (
                    sum(curve(g, after[g]) - curve(g, kept[g]) for g in range(len(kept)))
                    * 100
                    * trust
                )
                narrowed = problem.predicted_s(plan)
                gain = math.log(total / narrowed)
            columns[f"legal_x{count}"] = float(plan is not None)
            columns[f"fraction_removed_x{count}"] = 3 * removed
            log_gain, log_loss = math.log(max(gain, 0) + 1e-4), math.log(max(loss, 0) + 1e-3)
            columns[f"log_gain_x{count}"] = log_gain / 2 + 1.5
            columns[f"log_loss_over_slack_x{count}"] = (log_loss - math.log(slack + 0.01)) / 2
            columns[f"score_x{count}"] = (log_gain - log_loss) / 2
        result[r] = [min(max(columns[name], -10.0), 10.0) for name in FEATURES]
    return result


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(8, 64), min_size=3, max_size=3),
    st.sampled_from([0.003, 0.01, 0.05]),
    st.integers(0, 10_000),
)
def test_observation_and_mask_are_those_of_a_slow_implementation(
    widths: list[int], drop: float, seed: int
) -> None:
    walk(toy_problem(widths, drop), seed, n_steps=8)


@pytest.mark.parametrize("name", ["resnet8@znver4-1t", "mobilenetv2-small@haswell-2t"])
def test_so_are_those_of_recorded_networks(name: str) -> None:
    for seed in range(2):
        walk(open_recorded(name, -0.02), seed, n_steps=12)


def walk(problem: Problem, seed: int, n_steps: int) -> None:
    """Random legal actions; observation and mask compared before each."""
    env, rng = CPruneEnv(problem, max_rows=ROWS), np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(n_steps):
        np.testing.assert_allclose(obs, slow_observation(env), atol=2e-5)
        moves = slow_moves(env)
        assert set(np.flatnonzero(env.action_masks())) == {*moves, env.stop_action}
        for action, plan in moves.items():
            found = env.prune_action(action)
            assert found is not None
            assert found.plan == plan
        if not moves:
            return
        obs, _, terminated, *_ = env.step(int(rng.choice(list(moves))))
        assert isinstance(env.state.table, SubgraphTable)
        if terminated:
            return


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_permutation_of_rows_permutes_the_logits_and_leaves_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    space = gymnasium.spaces.Box(-10.0, 10.0, (ROWS, N_FEATURES), np.float32)
    policy = RowPolicy(space, gymnasium.spaces.Discrete(N_COUNTS * ROWS + 1), lambda _: 0.0)  # type: ignore[arg-type]
    for parameter in policy.parameters():
        torch.nn.init.normal_(
            parameter, std=0.3
        )  # a fresh head would hide a mistake: it is nearly zero
    observation = rng.normal(0, 1, (ROWS, N_FEATURES)).astype(np.float32)
    observation[:, 0] = 1.0
    observation[:, -N_GLOBALS:] = observation[0, -N_GLOBALS:]
    order = rng.permutation(ROWS)
    (logits, value), (moved, moved_value) = (
        told(policy, o) for o in (observation, observation[order])
    )
    np.testing.assert_allclose(
        moved[:-1].reshape(ROWS, N_COUNTS),
        logits[:-1].reshape(ROWS, N_COUNTS)[order],
        rtol=1e-3,
        atol=1e-3,
    )
    assert moved[-1] == pytest.approx(logits[-1], rel=1e-3, abs=1e-3)
    assert moved_value == pytest.approx(value, rel=1e-3, abs=1e-3)


def told(policy: RowPolicy, observation: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Logits and value."""
    with torch.no_grad():
        latent = policy.extract_features(
            torch.from_numpy(observation[None]), policy.pi_features_extractor
        )
        return policy.action_net(latent)[0].numpy(), float(policy.value_net(latent))
