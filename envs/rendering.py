"""Pictures of an episode: the subgraph table, with the staircase of each task."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.subgraph_table import TaskRow
from cprune_rl.envs.actions.base import EpisodeState
from cprune_rl.envs.problem import Problem

__all__ = ["draw_table", "staircase"]

_N_COLUMNS = 4
_PANEL_INCHES = (2.6, 1.7)
_DPI = 80
_MAX_POINTS = 32  # of a staircase
_COLORS = {"staircase": "#4477aa", "now": "#cc3311", "dense": "#888888"}


def staircase(
    problem: Problem, plan: Plan, row: TaskRow
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predict a task's latency over the channels that it writes; nothing is measured.

    Args:
        problem: whose latencies.
        plan: keeps the other groups as they are.
        row: of the plan's table; all groups that it writes become narrower together.

    Returns:
        Channels, ascending, and seconds, `(n_points,)` each; empty where the row writes no group.
    """
    network = problem.network
    subgraph = row.subgraphs[0]
    plans = _plans_between(network, plan, row.groups)
    workloads = [network.workload(subgraph, narrower) for narrower in plans]
    costs = problem.latency.predict(workloads)
    channels = np.array([workload.channels_out for workload in workloads], np.int64)
    return channels, np.array([cost.latency_s for cost in costs], float)


def draw_table(problem: Problem, state: EpisodeState) -> NDArray[np.uint8]:
    """Draw a panel for each task: its staircase, and where the plan stands on it.

    Args:
        problem: that the episode solves.
        state: of the episode.

    Returns:
        `(height, width, 3)`, of a size that depends on the number of subgraphs alone.
    """
    n_panels = len(problem.network.subgraphs)
    n_lines = math.ceil(n_panels / _N_COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure((width * _N_COLUMNS, height * n_lines + 0.6), _DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(
        f"{problem.name}: {state.table.latency_s * 1e6:.1f} us "
        f"of {state.start_latency_s * 1e6:.1f} us, "
        f"accuracy {state.accuracy:.4f}, floor {problem.floor:.4f}",
        fontsize=9,
    )
    figure.supxlabel("channels", fontsize=7)
    figure.supylabel("microseconds", fontsize=7)
    panels = figure.subplots(n_lines, _N_COLUMNS, squeeze=False).ravel()
    for panel in panels[len(state.table.rows) :]:
        panel.set_axis_off()
    for panel, row in zip(panels, state.table.rows, strict=False):
        _draw_row(panel, problem, state, row)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _draw_row(panel: Axes, problem: Problem, state: EpisodeState, row: TaskRow) -> None:
    share = row.weight * row.latency_s / state.table.latency_s
    name = problem.network.subgraphs[row.subgraphs[0]].name
    panel.set_title(f"{name[:22]} x{row.weight}, {share:.0%}", fontsize=7)
    panel.tick_params(labelsize=6)
    channels, seconds = staircase(problem, state.plan, row)
    is_known = np.isfinite(seconds)
    if is_known.any():
        known_us = seconds[is_known] * 1e6
        panel.step(channels[is_known], known_us, where="mid", color=_COLORS["staircase"])
        panel.axvline(channels[-1], color=_COLORS["dense"], linewidth=0.6, linestyle=":")
    panel.plot([row.workload.channels_out], [row.latency_s * 1e6], "o", color=_COLORS["now"])
    panel.set_ylim(bottom=0)


def _plans_between(network: Network, plan: Plan, groups: tuple[int, ...]) -> list[Plan]:
    """Make plans that keep from the minimum to all of some groups' channels, in even steps."""
    if not groups:
        return []
    n_points = min(_MAX_POINTS, max(network.groups[group].channels for group in groups))
    plans = {}
    for ratio in np.linspace(0.0, 1.0, n_points):
        widths = list(plan.widths)
        for at in groups:
            group = network.groups[at]
            widths[at] = round(group.minimum + ratio * (group.channels - group.minimum))
        plans[tuple(widths)] = Plan(tuple(widths), plan.schemes)
    return list(plans.values())
