"""What may be done to a row of the table:

the seam between the environment and the kinds of change it knows.

An action set has the same changes for every row. Narrowing groups is one (`channel_menu`), giving layers a
scheme another
(`scheme_menu`). It says which changes are legal where an episode stands, what each would gain and
lose by cheap looks, and
which units of the loss model (groups, layers) a row's changes touch. Called by `cprune_env` and
`observation`.
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

__all__ = ["ActionSet", "ActionTable", "EpisodeState", "PruneAction"]


@dataclass
class EpisodeState:
    """Where an episode stands.

    Attributes:
        plan: kept so far; holds the floor.
        costs: of each subgraph.
        table: the subgraph table of the plan.
        accuracy: of the plan.
        dense_latency_s: estimate of the network that the episode began with.
        rejected: what was rejected in this episode, as the action set notes it.
        observed_loss: for each unit of the action set the loss in accuracy that its steps brought.
        predicted_loss: for each unit the loss that was predicted for them.
        n_steps: actions taken.
        n_rejections: of them rejected.
    """

    plan: Plan
    costs: list[TaskCost]
    table: SubgraphTable
    accuracy: float
    dense_latency_s: float
    rejected: NDArray[np.float64]
    observed_loss: NDArray[np.float64]
    predicted_loss: NDArray[np.float64]
    n_steps: int = 0
    n_rejections: int = 0


@dataclass(frozen=True)
class PruneAction:
    """A legal action: a change of a task's row.

    Attributes:
        row: row of the table.
        change: position in the action set.
        units: positions of the units it changes.
        plan: the plan it leads to.
    """

    row: int
    change: int
    units: tuple[int, ...]
    plan: Plan


@dataclass(frozen=True)
class ActionTable:
    """What the changes of each row would do, `(n_rows, n_changes)` each;

    0 where a change is not legal.

    Attributes:
        legal: whether a change may be made.
        removed: share of what is there that it takes away, in [0, 1].
        gain: log latency ratio by cheap looks.
        loss: predicted loss in accuracy, beyond that of the plan so far.
        make: the move of a legal change, by row and change.
    """

    legal: NDArray[np.bool_]
    removed: NDArray[np.float64]
    gain: NDArray[np.float64]
    loss: NDArray[np.float64]
    make: Callable[[int, int], PruneAction]


class ActionSet(Protocol):
    """Changes that each row of a table offers.

    Keeps nothing of an episode; may remember what depends on a network alone.
    """

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of the changes, as columns of an observation end in them."""

    @property
    def row_features(self) -> tuple[str, ...]:
        """Columns that a row has beside those that every action set's rows have."""

    def begin(self, network: Network) -> NDArray[np.float64]:
        """`EpisodeState.rejected` where nothing was rejected yet."""

    def n_units(self, network: Network) -> int:
        """Units of the loss model that changes touch."""

    def units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """Those that changes of a row touch."""

    def shape_of_losses(
        self, loss_model: LossModel
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and power of each unit, `(n_units,)` each."""

    def losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """Predicted loss of each unit, `(n_units,)`."""

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """What may be done now, for the first rows of the table."""

    def reject(self, state: EpisodeState, move: PruneAction) -> None:
        """Notes a rejected move, so that neither it nor one that loses more is legal again."""

    def columns(self, network: Network, plan: Plan, rows: Sequence[TaskRow]) -> NDArray[np.float64]:
        """Values of `row_features`, `(n_rows, n_row_features)`."""

    def describe(self, change: int) -> str:
        """A change in a word, for those who read what a search did."""


def log_ratio(before_s: float, after_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log latency ratios; 0 where one cannot be told."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            np.isfinite(after_s) & (after_s > 0) & math.isfinite(before_s),
            np.log(before_s / after_s),
            0.0,
        )
