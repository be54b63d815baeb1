"""The scheme environment:

what is offered, what a step changes, and that its return and its floor are those of the other one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy, spaces
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.actions.base import PruneAction
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.actions.scheme_actions import (
    SCHEMES,
    SchemeActions,
    prunable_layers,
    scheme_plans,
)
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.observation import features
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings, ProblemSource
from cprune_rl.errors import ConfigError, PolicyError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.testing import AnalyticLatency, toy_network, toy_problem

ROWS = 8


def scheme_env(**options: object) -> CPruneEnv:
    return CPruneEnv(toy_problem(), max_rows=ROWS, action_set=SchemeActions(), **options)  # type: ignore[arg-type]


def test_its_spaces_have_a_row_for_each_task_and_a_column_for_each_scheme() -> None:
    env = gymnasium.make("cprune_rl/SchemeMapping-v0", problem=toy_problem(), max_rows=ROWS)
    assert env.observation_space.shape == (ROWS, len(features(SchemeActions())))
    assert env.action_space.n == ROWS * len(SCHEMES) + 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(6))
def test_the_return_is_the_log_of_the_speedup_and_the_floor_holds(seed: int) -> None:
    env, rng = scheme_env(), np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        legal = np.flatnonzero(env.action_masks()[:-1])
        action = int(rng.choice(legal)) if len(legal) and rng.random() < 0.95 else env.stop_action
        obs, reward, terminated, truncated, info = env.step(action)
        total, done = total + reward, terminated or truncated
        assert np.isfinite(obs).all()
    assert total == pytest.approx(math.log(info["dense_latency_s"] / info["latency_s"]), abs=1e-12)
    assert env.problem.oracle.accuracy(info["plan"]).value >= env.problem.floor


def test_what_is_offered_is_sparser_and_promises_to_be_faster() -> None:
    env = scheme_env()
    env.reset(seed=0)
    network = env.problem.network
    rows = env.state.table.rows
    for r, row in enumerate(rows):
        layers = [network.subgraphs[s].block_sparse for s in row.subgraphs]
        assert env.action_table.legal[r].any() == all(layers), (
            "layers that no scheme prunes have no action"
        )
    before = env.state.table.latency_s
    for action in np.flatnonzero(env.action_masks()[:-1]):
        move = env.prune_action(int(action))
        assert move is not None
        assert env.problem.predicted_s(move.plan) < before
    row = next(r for r in range(len(rows)) if env.action_table.legal[r].any())
    sparse = next(
        a for a in np.flatnonzero(env.action_table.legal[row]) if SCHEMES[a].density == 0.25
    )
    env.step(row * len(SCHEMES) + int(sparse))
    changed = next(
        r
        for r, now in enumerate(env.state.table.rows)
        if set(now.subgraphs) == set(rows[row].subgraphs)
    )
    assert env.state.plan.schemes
    assert all(
        SCHEMES[a].density < 0.25 for a in np.flatnonzero(env.action_table.legal[changed])
    ), "what a layer has lost does not come back"


def test_what_was_rejected_is_not_offered_again_nor_what_loses_more() -> None:
    env = CPruneEnv(toy_problem(drop=1e-5), max_rows=ROWS, action_set=SchemeActions())
    env.reset(seed=0)
    row, change = next(
        (r, c)
        for r, c in zip(*np.nonzero(env.action_table.legal), strict=True)
        if SCHEMES[c].kind == "block" and SCHEMES[c].density == 0.25
    )
    refused = SCHEMES[change]
    _, reward, _, _, info = env.step(int(row * len(SCHEMES) + change))
    assert not info["accepted"]
    assert reward == 0.0
    assert env.state.plan == env.problem.network.dense
    for c in np.flatnonzero(env.action_table.legal[row]):
        other = SCHEMES[c]
        assert not (
            other.kind == refused.kind
            and other.block >= refused.block
            and other.density <= refused.density
        )
    assert env.action_table.legal[row].any(), "denser ones, smaller blocks and other kinds are"


def test_a_change_of_kind_that_promises_to_lose_less_teaches_nothing_of_its_size() -> None:
    env = scheme_env()
    env.reset(seed=0)
    state, layer = env.state, "conv1"
    unit = env.problem.network.layer_index[layer]
    widths = env.problem.network.dense.widths
    state.plan = Plan(widths, ((layer, "kernel(8,0.5)"),))
    softer, harder = (
        PruneAction(0, 0, (unit,), Plan(widths, ((layer, text),)))
        for text in ("block(4,0.35)", "kernel(8,0.25)")
    )
    assert (
        env.action_set.unit_losses(env.problem, softer.plan)[unit]
        < env.action_set.unit_losses(env.problem, state.plan)[unit]
    )
    env._observe_loss(softer.plan, state.accuracy - 0.01)
    assert not state.observed_loss.any()
    assert not state.predicted_loss.any()
    env._observe_loss(harder.plan, state.accuracy - 0.01)
    assert state.observed_loss[unit] == pytest.approx(0.01)
    assert state.predicted_loss[unit] > 0


def test_columns_say_what_a_row_has_and_what_changes_would_do() -> None:
    env, names = scheme_env(), features(SchemeActions())
    obs, _ = env.reset(seed=0)
    row = next(r for r in range(ROWS) if env.action_table.legal[r].any())
    change = int(np.flatnonzero(env.action_table.legal[row])[0])
    assert obs[row, names.index("density")] == 1.0
    move = env.prune_action(row * len(SCHEMES) + change)
    assert move is not None
    problem, network = env.problem, env.problem.network
    gain = math.log(env.state.table.latency_s / problem.predicted_s(move.plan))
    loss = problem.loss_model.layer_losses(network, move.plan).sum()
    slack = (problem.dense_accuracy - problem.floor) * 100
    name = SchemeActions.changes[change]
    assert obs[row, names.index(f"legal_{name}")] == 1.0
    assert obs[row, names.index(f"log_gain_{name}")] == pytest.approx(
        math.log(gain + 1e-4) / 2 + 1.5, rel=1e-4
    )
    expected = (math.log(loss * 100 + 1e-3) - math.log(slack + 0.01)) / 2
    assert obs[row, names.index(f"log_loss_over_slack_{name}")] == pytest.approx(
        min(max(expected, -10), 10), rel=1e-4
    )
    obs, *_ = env.step(row * len(SCHEMES) + change)
    assert obs[row, names.index("density")] == pytest.approx(SCHEMES[change].density)
    assert obs[row, names.index(f"is_{SCHEMES[change].kind}")] == 1.0


def test_a_problem_of_channels_alone_is_refused() -> None:
    problem = toy_problem()
    bare = replace(problem, loss_model=replace(problem.loss_model, layer_scale=np.empty(0)))
    with pytest.raises(ConfigError, match="opened for channels alone"):
        CPruneEnv(bare, max_rows=ROWS, action_set=SchemeActions()).reset(seed=0)


def test_an_episode_may_begin_with_narrower_groups() -> None:
    problem = toy_problem()
    start = problem.network.uniform(0.9)
    env = CPruneEnv(replace(problem, start=start), max_rows=ROWS, action_set=SchemeActions())
    _, info = env.reset(seed=0)
    assert info["plan"] == start
    assert info["accuracy"] == problem.oracle.accuracy(start).value
    action = int(np.flatnonzero(env.action_masks()[:-1])[0])
    _, _, _, _, info = env.step(action)
    assert info["plan"].widths == start.widths


def test_tables_of_latencies_have_every_shape_on_all_layers_that_take_it() -> None:
    network = toy_network()
    plans = scheme_plans(network, 0.25)
    assert (
        len({p.schemes for p in plans}) == len(plans) == len({(s.kind, s.block) for s in SCHEMES})
    )
    for plan in plans:
        kinds = {Scheme.parse(text).kind for _, text in plan.schemes}
        assert [layer for layer, _ in plan.schemes] == prunable_layers(network, kinds.pop())
    assert len(scheme_plans(network, 0.5)) < len(plans), "no pattern keeps half of a kernel"


def known_costs() -> LatencyInterpolator:
    network, model = toy_network(), LatencyInterpolator()
    source = AnalyticLatency(network)
    for plan in (
        network.dense,
        network.uniform(0.5),
        *(p for d in (0.25, 0.0625) for p in scheme_plans(network, d)),
    ):
        costs: list[TaskCost] = source.measure(plan)
        for workload, cost in zip(network.workloads(plan), costs, strict=True):
            model.learn(workload, cost)
    return model


@pytest.mark.slow
def test_a_policy_learns_on_drawn_problems_and_reads_its_own_menu_alone(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    network, loss_model = toy_network(), toy_problem().loss_model
    source = ProblemSource(
        name="toy",
        network=network,
        interpolator=known_costs(),
        loss_model=loss_model,
        dense_accuracy=0.95,
        descriptor=UNKNOWN_DEVICE,
    )
    problems = GeneratedProblems.from_source(source, GeneratorSettings(start_ratios=(1.0, 0.75)))
    drawn = problems(np.random.default_rng(0))
    assert drawn.start is not None
    assert drawn.oracle.accuracy(drawn.start_plan).value >= drawn.floor, (
        "what is gone at the beginning is not held against an episode"
    )
    trained = train_policy(
        problems,
        TrainingSettings(
            total_timesteps=512, n_envs=8, max_rows=ROWS, options={"n_steps": 16, "batch_size": 64}
        ),
        action_set=SchemeActions(),
    )
    save_policy(trained.policy, folder, {}, SchemeActions())
    again = load_policy(folder, 2 * ROWS, SchemeActions())
    assert isinstance(again, RowPolicy)
    assert again.observation_space.shape == spaces(SchemeActions(), 2 * ROWS)[0].shape
    with pytest.raises(PolicyError, match="reads observation"):
        load_policy(folder, ROWS)
    save_policy(RowPolicy(*spaces(ChannelActions(), ROWS), lambda _: 0.0), folder, {})
    with pytest.raises(PolicyError, match="reads observation"):
        load_policy(folder, ROWS, SchemeActions())
