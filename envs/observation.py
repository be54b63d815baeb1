"""What an agent sees: the subgraph table as rows of numbers, and what each change would do.

A row is a task of the current table; columns are the same for every network, so one policy reads
them
all. Their order is `features`, of the action set that says which changes there are; its hash stands in
every policy file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.network import Network
from cprune_rl.core.subgraph_table import TaskRow
from cprune_rl.envs.actions.base import ActionSet, ActionTable, EpisodeState
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.layout import Layout
from cprune_rl.envs.problem import Problem

__all__ = [
    "FEATURES",
    "N_FEATURES",
    "N_GLOBALS",
    "N_WIDTHS",
    "Observer",
    "feature_hash",
    "features",
]

_GLOBALS = (
    "log_slack",
    "slack_share",
    "floor_drop",
    "log_gain_so_far",
    "steps",
    "rejections",
    *(f"device_{name}" for name in DeviceDescriptor.vector_names()),
)
_PER_ROW = (
    "valid", "log_share", "share", "weight", "log2_channels_in", "log2_channels_out", "kept_in", "kept_out", "log_latency", "log_density",
    "n_groups", "is_depthwise", "is_dense", "is_3x3", "stride", "log2_height", "log_importance", "curvature", "log_realised_over_predicted", "evidence",
)  # fmt: skip
_PER_ACTION = ("legal", "fraction_removed", "log_gain", "log_loss_over_slack", "score")
N_GLOBALS = len(_GLOBALS)
_LOG_2 = math.log(2)


def features(action_set: ActionSet) -> tuple[str, ...]:
    """Names of the columns that an observation has under an action set."""
    return (
        *_PER_ROW,
        *action_set.row_features,
        *(f"{name}_{change}" for name in _PER_ACTION for change in action_set.changes),
        *_GLOBALS,
    )


FEATURES = features(ChannelActions())
N_FEATURES = len(FEATURES)
N_WIDTHS = len(ChannelActions.changes)


def feature_hash(names: Sequence[str] = FEATURES) -> str:
    """Names the layout of a row: a policy is refused where it differs.

    Args:
        names: of the columns.
    """
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:12]


class Observer:
    """Turns states of one network into observations; remembers what only depends on its structure.

    Args:
        network: whose tables are observed.
        max_rows: rows of an observation; tasks beyond it are not seen.
        action_set: which changes there are.
    """

    def __init__(self, network: Network, max_rows: int, action_set: ActionSet) -> None:
        self.network, self._max_rows, self._action_set = network, max_rows, action_set
        self._n_features = len(features(action_set))
        self._dense = np.array(network.dense.widths, float)
        self._layouts: dict[tuple[tuple[int, ...], ...], Layout] = {}

    def observe(
        self, problem: Problem, state: EpisodeState, options: ActionTable
    ) -> NDArray[np.float32]:
        """The observation.

        Args:
            problem: what is being solved.
            state: where the episode stands.
            options: what may be done there.

        Returns:
            `(max_rows, n_features)` float32 in [-10, 10]; rows without a task are 0.
        """
        rows = state.table.rows[: self._max_rows]
        result = np.zeros((self._max_rows, self._n_features), np.float32)
        if not rows:
            return result
        view = _View(
            problem,
            state,
            rows,
            self._layout(rows),
            np.array(state.plan.widths, float) / self._dense,
        )
        slack = max(state.accuracy - problem.floor, 0.0) * 100
        trust = np.minimum(
            np.maximum(
                (view.layout.membership @ state.observed_loss * 100 + 0.1)
                / (view.layout.membership @ state.predicted_loss * 100 + 0.1),
                0.2,
            ),
            5.0,
        )
        columns = [
            _row_columns(view, trust, *self._action_set.shape_of_losses(problem.loss_model)),
            self._action_set.columns(self.network, state.plan, rows),
        ]
        values = np.concatenate(
            [
                *columns,
                _action_columns(options, trust, slack),
                np.broadcast_to(_globals(view, slack), (len(rows), N_GLOBALS)),
            ],
            axis=1,
        )
        values[np.isnan(values)] = 0.0
        result[: len(rows)] = np.minimum(np.maximum(values, -10), 10)
        return result

    def _layout(self, rows: Sequence[TaskRow]) -> Layout:
        sharing = tuple([row.subgraphs for row in rows])
        if sharing not in self._layouts:
            self._layouts[sharing] = Layout.of(
                self.network,
                rows,
                [self._action_set.units(self.network, row) for row in rows],
                self._action_set.n_units(self.network),
            )
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
    values = [
        math.log(slack + 0.01) / 2,
        min(slack / max(drop, 1e-6), 2.0),
        drop / 3,
        math.log(state.dense_latency_s / state.table.latency_s),
    ]
    return np.array(
        [
            *values,
            min(state.n_steps / 60, 1.0),
            state.n_rejections / 8,
            *problem.descriptor.vector(),
        ]
    )


def _row_columns(
    view: _View, trust: NDArray[np.float64], scale: NDArray[np.float64], power: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`(n, 20)`: the columns that every action set's rows have."""
    layout, total = view.layout, view.state.table.latency_s
    mean = view.state.dense_latency_s / len(view.problem.network.subgraphs)
    numbers = np.array(
        [
            (
                r.latency_s,
                r.workload.channels_in,
                r.workload.channels_out,
                max(2.0 * r.workload.macs, 1.0),
            )
            for r in view.rows
        ]
    )
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
    columns[:, 16] = np.log(layout.membership @ scale * 100 + 0.01) / 2
    columns[:, 17] = layout.membership @ power / layout.members - 2
    columns[:, 18] = np.log(trust)
    columns[:, 19] = np.minimum(layout.membership @ view.state.predicted_loss * 100, 2)
    return columns


def _action_columns(
    options: ActionTable, trust: NDArray[np.float64], slack: float
) -> NDArray[np.float64]:
    """`(n, 5 * n_changes)`: legality, fraction removed, log gain, log loss against slack, score."""
    log_gain = np.log(np.maximum(options.gain, 0) + 1e-4)
    log_loss = np.log(np.maximum(options.loss * 100 * trust[:, None], 0) + 1e-3)
    columns = [
        options.legal.astype(float),
        options.removed * 3,
        log_gain / 2 + 1.5,
        (log_loss - math.log(slack + 0.01)) / 2,
        (log_gain - log_loss) / 2,
    ]
    return np.concatenate(columns, axis=1)
