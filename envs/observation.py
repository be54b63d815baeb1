"""The observation: the subgraph table as rows of numbers, and what each action would do.

A row is a task of the current table. The columns are the same for every network, so one policy
reads all of them. `features` has their order, and every policy file has a hash of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.loss_model import kept_ratios
from cprune_rl.core.network import Network
from cprune_rl.core.subgraph_table import TaskRow
from cprune_rl.envs.actions.base import ActionSet, ActionTable, EpisodeState
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.problem import Problem

__all__ = [
    "FEATURES",
    "N_FEATURES",
    "N_GLOBALS",
    "Observer",
    "feature_hash",
    "features",
]

Matrix = NDArray[np.float64]

_ROW_FEATURES = (
    "valid",
    "log_share",
    "share",
    "weight",
    "log2_channels_in",
    "log2_channels_out",
    "kept_in",
    "kept_out",
    "log_latency",
    "log_density",
    "n_groups",
    "is_depthwise",
    "is_dense",
    "is_3x3",
    "stride",
    "log2_height",
    "log_importance",
    "curvature",
    "log_realised_over_predicted",
    "evidence",
)
_ACTION_FEATURES = ("legal", "fraction_removed", "log_gain", "log_loss_over_slack", "score")
_GLOBALS = (
    "log_slack",
    "slack_share",
    "floor_drop",
    "log_gain_so_far",
    "steps",
    "rejections",
    *(f"device_{name}" for name in DeviceDescriptor.vector_names()),
)
N_GLOBALS = len(_GLOBALS)
_LIMIT = 10.0  # of every value
_LOG_2 = math.log(2)


def features(action_set: ActionSet) -> tuple[str, ...]:
    """Name the columns that an observation has with a set of actions."""
    return (
        *_ROW_FEATURES,
        *action_set.row_features,
        *(f"{name}_{change}" for name in _ACTION_FEATURES for change in action_set.changes),
        *_GLOBALS,
    )


FEATURES = features(ChannelActions())
N_FEATURES = len(FEATURES)


def feature_hash(names: Sequence[str] = FEATURES) -> str:
    """Hash the names of the columns: a policy is refused where the hash differs."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:12]


class Observer:
    """Turns states of one network into observations.

    Args:
        network: whose tables are observed.
        max_rows: rows of an observation; further tasks are left out.
        action_set: gives the columns of actions.
    """

    def __init__(self, network: Network, max_rows: int, action_set: ActionSet) -> None:
        self.network = network
        self._max_rows = max_rows
        self._action_set = action_set
        self._n_features = len(features(action_set))
        self._first_action = len(_ROW_FEATURES) + len(action_set.row_features)
        self._structures: dict[tuple[tuple[int, ...], ...], _Structure] = {}

    def observe(
        self, problem: Problem, state: EpisodeState, table: ActionTable
    ) -> NDArray[np.float32]:
        """Observe a state.

        Args:
            problem: that is being solved.
            state: of the episode.
            table: what the actions would do there.

        Returns:
            `(max_rows, n_features)` in [-10, 10]; rows without a task are 0.
        """
        observation = np.zeros((self._max_rows, self._n_features), np.float32)
        rows = state.table.rows[: self._max_rows]
        if not rows:
            return observation
        structure = self._structure(state, rows)
        slack = max(state.accuracy - problem.floor, 0.0) * 100
        trust = structure.trust(state)
        unit_shapes = self._action_set.unit_shapes(problem.loss_model)
        columns = np.empty((len(rows), self._n_features))
        columns[:, : len(_ROW_FEATURES)] = _row_columns(
            problem, state, rows, structure, trust, unit_shapes
        )
        columns[:, len(_ROW_FEATURES) : self._first_action] = self._action_set.row_columns(
            self.network, state.plan, rows
        )
        columns[:, self._first_action : -N_GLOBALS] = _action_columns(table, trust, slack)
        columns[:, -N_GLOBALS:] = _globals(problem, state, slack)
        columns[np.isnan(columns)] = 0.0
        observation[: len(rows)] = np.minimum(np.maximum(columns, -_LIMIT), _LIMIT)
        return observation

    def _structure(self, state: EpisodeState, rows: Sequence[TaskRow]) -> _Structure:
        """Give what depends on the rows' subgraphs alone; remembered for each sharing of tasks."""
        sharing = tuple([row.subgraphs for row in rows])
        structure = self._structures.get(sharing)
        if structure is None:
            membership = np.zeros((len(rows), len(state.observed_loss)))
            for at, row in enumerate(rows):
                membership[at, list(self._action_set.row_units(self.network, row))] = 1.0
            structure = _Structure.from_rows(self.network, rows, membership)
            self._structures[sharing] = structure
        return structure


@dataclass(frozen=True, eq=False, kw_only=True)
class _Structure:
    """What of an observation depends on the subgraphs of each row, not on widths or latencies.

    Most steps of an episode leave it as it was: they make groups narrower and neither split tasks
    nor join them.

    Attributes:
        membership: `(n_rows, n_units)` 1 where changes of the row touch the unit.
        n_members: `(n_rows,)` units that they touch, at least 1.
        written: `(n_rows, n_groups)` times kept ratios: their mean over the groups that a row
            writes.
        read: `(n_rows, n_groups)` times kept ratios: their mean over the groups that it reads.
        kept_without_group: `(n_rows, 2)` kept ratio read and written where no group decides it: 1,
            else 0.
        weight: `(n_rows,)` subgraphs that share the task.
        operator: `(n_rows, 6)` groups, depthwise, dense, 3x3, stride and height, as columns.
    """

    membership: Matrix
    n_members: Matrix
    written: Matrix
    read: Matrix
    kept_without_group: Matrix
    weight: Matrix
    operator: Matrix

    @classmethod
    def from_rows(cls, network: Network, rows: Sequence[TaskRow], membership: Matrix) -> _Structure:
        """Read the rows of a table."""
        n_groups = len(network.groups)
        written = np.zeros((len(rows), n_groups))
        read = np.zeros((len(rows), n_groups))
        for at, row in enumerate(rows):
            touched = network.touched_groups[row.subgraphs[0]]
            written[at, list(row.groups)] = 1.0
            read[at, [group for group in touched if group not in row.groups]] = 1.0
        n_written = written.sum(axis=1)
        n_read = read.sum(axis=1)
        operator_columns = [_operator_columns(row) for row in rows]
        return cls(
            membership=membership,
            n_members=np.maximum(membership.sum(axis=1), 1),
            written=written / np.maximum(n_written, 1)[:, None],
            read=read / np.maximum(n_read, 1)[:, None],
            kept_without_group=np.stack([n_read == 0, n_written == 0], axis=1).astype(float),
            weight=np.array([row.weight for row in rows], float),
            operator=np.concatenate(
                [n_written[:, None] / 3, np.array(operator_columns, float)], axis=1
            ),
        )

    def trust(self, state: EpisodeState) -> Matrix:
        """Give observed over predicted loss of each row's units in this episode, `(n_rows,)`."""
        observed = self.membership @ state.observed_loss * 100 + 0.1
        predicted = self.membership @ state.predicted_loss * 100 + 0.1
        return np.minimum(np.maximum(observed / predicted, 0.2), 5.0)


def _operator_columns(row: TaskRow) -> tuple[float, ...]:
    operator = row.workload.operator
    return (
        operator.name == "depthwise",
        operator.name == "dense",
        operator.kernel == 3,
        operator.stride - 1,
        np.log2(max(operator.height, 1)) / 3,
    )


def _row_columns(
    problem: Problem,
    state: EpisodeState,
    rows: Sequence[TaskRow],
    structure: _Structure,
    trust: Matrix,
    unit_shapes: tuple[Matrix, Matrix],
) -> Matrix:
    """Give the columns of `_ROW_FEATURES`, `(n_rows, 20)`."""
    scale, power = unit_shapes
    mean_s = state.start_latency_s / len(problem.network.subgraphs)
    figures = np.array(
        [
            (
                row.latency_s,
                row.workload.channels_in,
                row.workload.channels_out,
                max(2.0 * row.workload.macs, 1.0),
            )
            for row in rows
        ]
    )
    logs = np.log2(figures)
    log_latency = logs[:, 0] * _LOG_2
    share = structure.weight * figures[:, 0] / state.table.latency_s
    kept = kept_ratios(problem.network, state.plan)
    columns = np.empty((len(rows), len(_ROW_FEATURES)))
    columns[:, 0] = 1.0
    columns[:, 1] = np.log(np.maximum(share, 1e-4)) + 3
    columns[:, 2] = share * 3
    columns[:, 3] = structure.weight / 3
    columns[:, 4:6] = logs[:, 1:3] / 4 - 1.5
    columns[:, 6] = structure.read @ kept + structure.kept_without_group[:, 0]
    columns[:, 7] = structure.written @ kept + structure.kept_without_group[:, 1]
    columns[:, 8] = (log_latency - math.log(mean_s)) / 2
    columns[:, 9] = (logs[:, 3] * _LOG_2 - log_latency - 23) / 2
    columns[:, 10:16] = structure.operator
    columns[:, 16] = np.log(structure.membership @ scale * 100 + 0.01) / 2
    columns[:, 17] = structure.membership @ power / structure.n_members - 2
    columns[:, 18] = np.log(trust)
    columns[:, 19] = np.minimum(structure.membership @ state.predicted_loss * 100, 2)
    return columns


def _action_columns(table: ActionTable, trust: Matrix, slack: float) -> Matrix:
    """Give the columns of `_ACTION_FEATURES` for each change, `(n_rows, 5 * n_changes)`."""
    log_gain = np.log(np.maximum(table.gain, 0) + 1e-4)
    log_loss = np.log(np.maximum(table.loss * 100 * trust[:, None], 0) + 1e-3)
    columns = [
        table.legal.astype(float),
        table.removed * 3,
        log_gain / 2 + 1.5,
        (log_loss - math.log(slack + 0.01)) / 2,
        (log_gain - log_loss) / 2,
    ]
    return np.concatenate(columns, axis=1)


def _globals(problem: Problem, state: EpisodeState, slack: float) -> Matrix:
    """Give the columns of `_GLOBALS`, `(n_globals,)`."""
    drop = (problem.dense_accuracy - problem.floor) * 100
    values = [
        math.log(slack + 0.01) / 2,
        min(slack / max(drop, 1e-6), 2.0),
        drop / 3,
        math.log(state.start_latency_s / state.table.latency_s),
        min(state.n_steps / 60, 1.0),
        state.n_rejections / 8,
        *problem.descriptor.vector(),
    ]
    return np.array(values)
