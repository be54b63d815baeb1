"""CPrune's changes: a row's groups 1, 2 or 4 legal steps narrower."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow, width_after_steps
from cprune_rl.envs.actions.base import ActionTable, EpisodeState, PruneAction, log_ratio
from cprune_rl.envs.problem import Problem

__all__ = ["STEP_COUNTS", "ChannelActions"]

STEP_COUNTS = (1, 2, 4)


class ChannelActions:
    """See the module (and `action_set.ActionSet`);

    units are groups, `rejected` holds the largest width rejected of each.
    """

    changes = tuple(f"x{count}" for count in STEP_COUNTS)
    row_features: tuple[str, ...] = ()

    def begin(self, network: Network) -> NDArray[np.float64]:
        """See `ActionSet`."""
        return np.zeros(len(network.groups))

    def n_units(self, network: Network) -> int:
        """See `ActionSet`."""
        return len(network.groups)

    def units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """See `ActionSet`."""
        return row.groups

    def shape_of_losses(
        self, loss_model: LossModel
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ActionSet`."""
        return loss_model.scale, loss_model.power

    def losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """See `ActionSet`."""
        return problem.loss_model.group_losses(
            np.array(plan.widths) / np.array(problem.network.dense.widths, float)
        )

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """See `ActionSet`; every group of a row stays at its minimum or above, and above any width that
        was rejected.
        """
        network, n_rows = problem.network, min(len(state.table.rows), max_rows)
        moves = _moves(network, state.table, state.rejected, max_rows)
        legal, (removed, gain, loss) = (
            np.zeros((n_rows, len(STEP_COUNTS)), bool),
            np.zeros((3, n_rows, len(STEP_COUNTS))),
        )
        if moves:
            at = (np.array([m.row for m in moves]), np.array([m.change for m in moves]))
            dense = np.array(network.dense.widths, float)
            kept, after = (
                np.array(state.plan.widths, float) / dense,
                np.array([m.plan.widths for m in moves], float) / dense,
            )
            legal[at] = True
            removed[at] = (1 - after / kept).sum(axis=1) / np.array([len(m.units) for m in moves])
            loss[at] = (
                problem.loss_model.group_losses(after) - problem.loss_model.group_losses(kept)
            ).sum(axis=1)
            gain[at] = _log_gains(problem, state, moves)
        found = {(m.row, m.change): m for m in moves}
        return ActionTable(legal, removed, gain, loss, lambda row, change: found[row, change])

    def reject(self, state: EpisodeState, move: PruneAction) -> None:
        """See `ActionSet`."""
        for g in move.units:
            state.rejected[g] = max(state.rejected[g], move.plan.widths[g])

    def columns(self, network: Network, plan: Plan, rows: Sequence[TaskRow]) -> NDArray[np.float64]:
        """See `ActionSet`: none."""
        return np.empty((len(rows), 0))

    def describe(self, change: int) -> str:
        """See `ActionSet`."""
        return self.changes[change]


def _moves(
    network: Network, table: SubgraphTable, rejected: NDArray[np.float64], max_rows: int
) -> list[PruneAction]:
    moves = []
    plan, schemes = table.plan.widths, table.plan.schemes
    lowest = [
        max(group.minimum, width + 1)
        for group, width in zip(network.groups, rejected.tolist(), strict=True)
    ]
    for w, count in enumerate(STEP_COUNTS):
        narrowed = [
            width_after_steps(width, step, count)
            for width, step in zip(plan, table.steps, strict=True)
        ]
        legal = [width >= least for width, least in zip(narrowed, lowest, strict=True)]
        for r, row in enumerate(table.rows[:max_rows]):
            if row.groups and all([legal[g] for g in row.groups]):  # noqa: C419  # a list is faster than a generator where it is this short
                widths = list(plan)
                for g in row.groups:
                    widths[g] = narrowed[g]
                moves.append(PruneAction(r, w, row.groups, Plan(tuple(widths), schemes)))
    return moves


def _log_gains(
    problem: Problem, state: EpisodeState, moves: Sequence[PruneAction]
) -> NDArray[np.float64]:
    """Log latency ratio of each move, by cheap looks; 0 where it cannot be told."""
    network = problem.network
    shaped = [network.shaped_by(m.units) for m in moves]
    costs = problem.latency.predict(
        list(
            chain.from_iterable(
                network.workloads_of(at, m.plan) for m, at in zip(moves, shaped, strict=True)
            )
        )
    )
    before = np.array([c.latency_s for c in state.costs])[list(chain.from_iterable(shaped))]
    of_move = np.repeat(np.arange(len(moves)), [len(at) for at in shaped])
    total = state.table.latency_s
    with np.errstate(invalid="ignore"):
        changed = np.bincount(
            of_move, np.array([c.latency_s for c in costs]) - before, len(moves)
        ).astype(np.float64)
        after = total + changed
        return log_ratio(total, after)
