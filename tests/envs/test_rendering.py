"""Pictures and texts of an episode."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.rendering import staircase
from cprune_rl.testing import toy_problem


def test_ansi_lists_the_tasks() -> None:
    env = CPruneEnv(toy_problem(), render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert isinstance(text, str)
    assert "conv0" in text
    assert len(text.splitlines()) == 1 + len(env.state.table.rows)


def test_without_a_mode_nothing_is_drawn() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(seed=0)
    assert env.render() is None


def test_a_picture_changes_with_the_plan_and_keeps_its_size() -> None:
    env = CPruneEnv(toy_problem(), render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(int(np.flatnonzero(env.action_masks())[0]))
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert (before.dtype, before.ndim, before.shape[2]) == (np.uint8, 3, 3)
    assert before.shape == after.shape
    assert (before != after).any()


def test_a_staircase_goes_from_the_minimum_to_all_channels_and_costs_no_trial() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(seed=0)
    problem, plan = env.problem, env.state.plan
    row = next(row for row in env.state.table.rows if row.groups)
    group = problem.network.groups[row.groups[0]]
    spent = vars(problem.latency.spending).copy()
    channels, seconds = staircase(problem, plan, row)
    assert (channels[0], channels[-1]) == (group.minimum, group.channels)
    assert (np.diff(channels) > 0).all()
    assert seconds[-1] == row.latency_s, "the dense plan stands on its last step"
    assert vars(problem.latency.spending) == spent
    unprunable = next(row for row in env.state.table.rows if not row.groups)
    assert len(staircase(problem, plan, unprunable)[0]) == 0


def test_drawing_leaves_pyplot_and_other_episodes_alone() -> None:
    code = (
        "import sys; from cprune_rl.envs.cprune_env import CPruneEnv;"
        "from cprune_rl.testing import toy_problem;"
        "env = CPruneEnv(toy_problem(), render_mode='rgb_array'); env.reset(seed=0);"
        "loaded = 'matplotlib' in sys.modules; env.render();"
        "print(loaded, 'matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]
