"""The contract of a set of actions: the changes of a task's row, and what each would do.

A set offers the same changes for every row of the subgraph table. `ChannelActions` makes groups
narrower, `SchemeActions` prunes layers by schemes. Changes touch units of the loss model: groups,
or layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow
from cprune_rl.envs.problem import Problem

__all__ = ["ActionSet", "ActionTable", "EpisodeState", "PruneAction", "log_ratio"]


@dataclass(kw_only=True)
class EpisodeState:
    """Where an episode stands.

    Attributes:
        plan: accepted so far; it holds the floor.
        costs: of each subgraph.
        table: the subgraph table of the plan.
        accuracy: of the plan, in [0, 1].
        start_latency_s: estimate of the plan that the episode started from.
        rejected: what was rejected in this episode, as the action set notes it.
        observed_loss: `(n_units,)` accuracy that the steps of this episode lost, shared between the
            units that they touched.
        predicted_loss: `(n_units,)` loss that was predicted for the same steps.
        n_steps: actions taken.
        n_rejections: actions rejected.
    """

    plan: Plan
    costs: list[TaskCost]
    table: SubgraphTable
    accuracy: float
    start_latency_s: float
    rejected: NDArray[np.float64]
    observed_loss: NDArray[np.float64]
    predicted_loss: NDArray[np.float64]
    n_steps: int = 0
    n_rejections: int = 0


@dataclass(frozen=True)
class PruneAction:
    """A legal action: a change of a task's row.

    Attributes:
        row: of the subgraph table.
        change: position in the action set.
        units: positions of the units that it touches.
        plan: that it leads to.
    """

    row: int
    change: int
    units: tuple[int, ...]
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class ActionTable:
    """What each change of each row would do: arrays `(n_rows, n_changes)`, 0 where it is illegal.

    Attributes:
        legal: whether the change may be made.
        removed: share of the present channels, or weights, that it takes away, in [0, 1].
        gain: predicted log latency ratio.
        loss: predicted loss in accuracy, beyond that of the present plan.
        action: gives the action of a legal change, by row and change.
    """

    legal: NDArray[np.bool_]
    removed: NDArray[np.float64]
    gain: NDArray[np.float64]
    loss: NDArray[np.float64]
    action: Callable[[int, int], PruneAction]


class ActionSet(Protocol):
    """Changes that each row of the subgraph table offers.

    It keeps nothing of an episode. It may remember what depends on a network alone.
    """

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of the changes; columns of an observation end in them."""

    @property
    def row_features(self) -> tuple[str, ...]:
        """Names of the columns that a row has beside those of every action set."""

    def no_rejections(self, network: Network) -> NDArray[np.float64]:
        """Give `EpisodeState.rejected` as an episode starts with it."""

    def row_units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """Give the positions of the units that changes of a row touch."""

    def unit_shapes(self, loss_model: LossModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the scale and the power of each unit's loss, `(n_units,)` each."""

    def unit_losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """Predict the loss of each unit, `(n_units,)`."""

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """Say what the changes of the first rows of the table would do."""

    def reject(self, state: EpisodeState, action: PruneAction) -> None:
        """Note a rejected action: neither it nor one that loses more is legal again."""

    def row_columns(
        self, network: Network, plan: Plan, rows: Sequence[TaskRow]
    ) -> NDArray[np.float64]:
        """Give the values of `row_features`, `(n_rows, n_row_features)`."""

    def describe(self, change: int) -> str:
        """Put a change into words, for the log of a search."""


def log_ratio(before_s: float, after_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give log latency ratios; 0 where a latency is unknown."""
    is_known = np.isfinite(after_s) & (after_s > 0) & math.isfinite(before_s)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(is_known, np.log(before_s / after_s), 0.0)
