"""What an agent sees: the subgraph table as rows of numbers, and what each action would do.

A row is a task of the current table; columns are the same for every network, so one policy reads them
all. The order of the columns is `FEATURES`; its hash stands in every policy file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cprune_rl.contracts import TaskCost
from cprune_rl.descriptor import DeviceDescriptor
from cprune_rl.envs.layout import Layout
from cprune_rl.envs.problem import Problem
from cprune_rl.table import Network, Plan, SubgraphTable, TaskRow, lower_multiple

__all__ = ["FEATURES", "N_FEATURES", "N_GLOBALS", "N_WIDTHS", "STEP_COUNTS", "EpisodeState", "Move", "Observer", "feature_hash", "list_moves", "log_gain_shown"]

STEP_COUNTS = (1, 2, 4)
N_WIDTHS = len(STEP_COUNTS)
_GLOBALS = ("log_slack", "slack_share", "floor_drop", "log_gain_so_far", "steps", "rejections", *(f"device_{name}" for name in DeviceDescriptor.vector_names()))
_PER_ACTION = ("legal", "fraction_removed", "log_gain", "log_loss_over_slack", "score")
FEATURES = (
    "valid", "log_share", "share", "weight", "log2_channels_in", "log2_channels_out", "kept_in", "kept_out", "log_latency", "log_density",
    "n_groups", "is_depthwise", "is_dense", "is_3x3", "stride", "log2_height", "log_importance", "curvature", "log_realised_over_predicted", "evidence",
    *(f"{name}_x{count}" for name in _PER_ACTION for count in STEP_COUNTS), *_GLOBALS,
)  # fmt: skip
N_FEATURES = len(FEATURES)
N_GLOBALS = len(_GLOBALS)
_LOG_2 = math.log(2)


def feature_hash() -> str:
    """Names the layout of a row: a policy is refused where it differs."""
    return hashlib.sha256(",".join(FEATURES).encode()).hexdigest()[:12]


@dataclass
class EpisodeState:
    """Where an episode stands.

    Attributes:
        plan: kept so far; holds the floor.
        costs: of each subgraph.
        table: the subgraph table of the plan.
        accuracy: of the plan.
        dense_latency_s: estimate of the dense network.
        banned: for each group the largest width that was rejected in this episode, 0 where none was.
        realised: for each group the loss in accuracy that its steps brought.
        predicted: for each group the loss that was predicted for them.
        n_steps: actions taken.
        n_rejections: of them rejected.
    """

    plan: Plan
    costs: list[TaskCost]
    table: SubgraphTable
    accuracy: float
    dense_latency_s: float
    banned: list[int]
    realised: NDArray[np.float64]
    predicted: NDArray[np.float64]
    n_steps: int = 0
    n_rejections: int = 0


@dataclass(frozen=True)
class Move:
    """A legal action: a task's groups, some steps narrower.

    Attributes:
        row: row of the table.
        width: position in `STEP_COUNTS`.
        groups: positions of the groups it prunes.
        plan: the plan it leads to.
    """

    row: int
    width: int
    groups: tuple[int, ...]
    plan: Plan


def list_moves(network: Network, table: SubgraphTable, banned: Sequence[int], max_rows: int) -> list[Move]:
    """All legal moves: every group of the row stays at its minimum or above, and above any width that was rejected."""
    moves = []
    plan, schemes = table.plan.widths, table.plan.schemes
    lowest = [max(group.minimum, width + 1) for group, width in zip(network.groups, banned, strict=True)]
    for w, count in enumerate(STEP_COUNTS):
        narrowed = [lower_multiple(width, step, count) for width, step in zip(plan, table.steps, strict=True)]
        legal = [width >= least for width, least in zip(narrowed, lowest, strict=True)]
        for r, row in enumerate(table.rows[:max_rows]):
            if row.groups and all([legal[g] for g in row.groups]):  # noqa: C419  # a list is faster than a generator where it is this short
                widths = list(plan)
                for g in row.groups:
                    widths[g] = narrowed[g]
                moves.append(Move(r, w, row.groups, Plan(tuple(widths), schemes)))
    return moves


def log_gain_shown(value: float) -> float:
    """The log latency ratio that a `log_gain` column stands for."""
    return max(math.exp(2 * (value - 1.5)) - 1e-4, 0.0)


def _log_gains(problem: Problem, state: EpisodeState, moves: Sequence[Move]) -> NDArray[np.float64]:
    """Log latency ratio of each move, by cheap looks; 0 where it cannot be told."""
    network = problem.network
    shaped = [network.shaped_by(m.groups) for m in moves]
    costs = problem.latency.predict(list(chain.from_iterable(network.workloads_of(at, m.plan.widths) for m, at in zip(moves, shaped, strict=True))))
    before = np.array([c.latency_s for c in state.costs])[list(chain.from_iterable(shaped))]
    of_move = np.repeat(np.arange(len(moves)), [len(at) for at in shaped])
    total = state.table.latency_s
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = total + np.bincount(of_move, np.array([c.latency_s for c in costs]) - before, len(moves))
        return np.where(np.isfinite(rest) & (rest > 0), np.log(total / rest), 0.0)


class Observer:
    """Turns states of one network into observations; remembers what only depends on its structure.

    Args:
        network: whose tables are observed.
        max_rows: rows of an observation; tasks beyond it are not seen.
    """

    def __init__(self, network: Network, max_rows: int) -> None:
        self.network, self._max_rows = network, max_rows
        self._dense = np.array(network.dense.widths, float)
        self._layouts: dict[tuple[tuple[int, ...], ...], Layout] = {}

    def observe(self, problem: Problem, state: EpisodeState, moves: Sequence[Move]) -> NDArray[np.float32]:
        """The observation.

        Args:
            problem: what is being solved.
            state: where the episode stands.
            moves: legal moves.

        Returns:
            `(max_rows, N_FEATURES)` float32 in [-10, 10]; rows without a task are 0.
        """
        rows = state.table.rows[: self._max_rows]
        result = np.zeros((self._max_rows, N_FEATURES), np.float32)
        if not rows:
            return result
        view = _View(problem, state, rows, self._layout(rows), np.array(state.plan.widths, float) / self._dense)
        slack = max(state.accuracy - problem.floor, 0.0) * 100
        trust = np.minimum(np.maximum((view.layout.membership @ state.realised * 100 + 0.1) / (view.layout.membership @ state.predicted * 100 + 0.1), 0.2), 5.0)
        actions = _action_columns(view, moves, self._dense, trust, slack)
        values = np.concatenate([_row_columns(view, trust), actions, np.broadcast_to(_globals(view, slack), (len(rows), N_GLOBALS))], axis=1)
        values[np.isnan(values)] = 0.0
        result[: len(rows)] = np.minimum(np.maximum(values, -10), 10)
        return result

    def _layout(self, rows: Sequence[TaskRow]) -> Layout:
        sharing = tuple([row.subgraphs for row in rows])
        if sharing not in self._layouts:
            self._layouts[sharing] = Layout.of(self.network, rows)
        return self._layouts[sharing]


@dataclass(frozen=True)
class _View:
    """What every part of an observation looks at."""

    problem: Problem
    state: EpisodeState
    rows: Sequence[TaskRow]
    layout: Layout
    kept: NDArray[np.float64]


def _globals(view: _View, slack: float) -> NDArray[np.float64]:
    problem, state = view.problem, view.state
    drop = (problem.dense_accuracy - problem.floor) * 100
    values = [math.log(slack + 0.01) / 2, min(slack / max(drop, 1e-6), 2.0), drop / 3, math.log(state.dense_latency_s / state.table.latency_s)]
    return np.array([*values, min(state.n_steps / 60, 1.0), state.n_rejections / 8, *problem.descriptor.vector()])


def _row_columns(view: _View, trust: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, 20)`: the columns of `FEATURES` up to the actions'."""
    layout, curves, total = view.layout, view.problem.curves, view.state.table.latency_s
    mean = view.state.dense_latency_s / len(view.problem.network.subgraphs)
    numbers = np.array([(r.latency_s, r.workload.channels_in, r.workload.channels_out, max(2.0 * r.workload.macs, 1.0)) for r in view.rows])
    latency, logs = numbers[:, 0], np.log2(numbers)
    share = layout.weight * latency / total
    log_latency = logs[:, 0] * _LOG_2
    columns = np.empty((len(latency), 20))
    columns[:, 0] = 1.0
    columns[:, 1] = np.log(np.maximum(share, 1e-4)) + 3
    columns[:, 2] = share * 3
    columns[:, 3] = layout.weight / 3
    columns[:, 4:6] = logs[:, 1:3] / 4 - 1.5
    columns[:, 6] = layout.read @ view.kept + layout.whole[:, 0]
    columns[:, 7] = layout.written @ view.kept + layout.whole[:, 1]
    columns[:, 8] = (log_latency - math.log(mean)) / 2
    columns[:, 9] = (logs[:, 3] * _LOG_2 - log_latency - 23) / 2
    columns[:, 10:16] = layout.facts
    columns[:, 16] = np.log(layout.membership @ curves.scale * 100 + 0.01) / 2
    columns[:, 17] = layout.membership @ curves.power / layout.members - 2
    columns[:, 18] = np.log(trust)
    columns[:, 19] = np.minimum(layout.membership @ view.state.predicted * 100, 2)
    return columns


def _action_columns(view: _View, moves: Sequence[Move], dense: NDArray[np.float64], trust: NDArray[np.float64], slack: float) -> NDArray[np.float64]:
    """`(n, 5 * N_WIDTHS)`: legality, fraction removed, log gain, log loss against slack, score."""
    legal, removed, gain, loss = np.zeros((4, len(view.rows), N_WIDTHS))
    if moves:
        at = (np.array([m.row for m in moves]), np.array([m.width for m in moves]))
        after = np.array([m.plan.widths for m in moves], float) / dense
        curves = view.problem.curves
        legal[at] = 1.0
        removed[at] = (1 - after / view.kept).sum(axis=1) / view.layout.members[at[0]]
        loss[at] = (curves.loss(after) - curves.loss(view.kept)).sum(axis=1) * 100 * trust[at[0]]
        gain[at] = _log_gains(view.problem, view.state, moves)
    log_gain = np.log(np.maximum(gain, 0) + 1e-4)
    log_loss = np.log(np.maximum(loss, 0) + 1e-3)
    columns = [legal, removed * 3, log_gain / 2 + 1.5, (log_loss - math.log(slack + 0.01)) / 2, (log_gain - log_loss) / 2]
    return np.concatenate(columns, axis=1)
