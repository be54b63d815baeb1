"""CPrune's actions: the groups of a row become 1, 2 or 4 legal steps narrower."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.legal_steps import width_after_steps
from cprune_rl.core.loss_model import LossModel, kept_ratios
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.subgraph_table import TaskRow
from cprune_rl.envs.actions.base import ActionTable, EpisodeState, PruneAction, log_ratio
from cprune_rl.envs.problem import Problem

__all__ = ["STEP_COUNTS", "ChannelActions"]

STEP_COUNTS = (1, 2, 4)


class ChannelActions:
    """An `ActionSet` whose units are groups of channels.

    `EpisodeState.rejected` holds the largest width that was rejected of each group.
    """

    changes = tuple(f"x{count}" for count in STEP_COUNTS)
    row_features: tuple[str, ...] = ()

    def no_rejections(self, network: Network) -> NDArray[np.float64]:
        """Give a width of 0 for each group."""
        return np.zeros(len(network.groups))

    def row_units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """Give the groups that the row writes."""
        return row.groups

    def unit_shapes(self, loss_model: LossModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the scale and the power of each group's loss."""
        return loss_model.scale, loss_model.power

    def unit_losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """Predict the loss of each group."""
        return problem.loss_model.group_losses(kept_ratios(problem.network, plan))

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """Offer each width that is neither below a group's minimum nor rejected."""
        network = problem.network
        actions = _legal_actions(network, state, max_rows)
        shape = (min(len(state.table.rows), max_rows), len(STEP_COUNTS))
        legal = np.zeros(shape, bool)
        removed, gain, loss = np.zeros((3, *shape))
        if actions:
            at = np.array([(a.row, a.change) for a in actions]).T
            rows, changes = at[0], at[1]
            dense = np.array(network.dense.widths, float)
            kept = np.array(state.plan.widths, float) / dense
            kept_after = np.array([a.plan.widths for a in actions], float) / dense
            n_groups = np.array([len(a.units) for a in actions])
            losses_after = problem.loss_model.group_losses(kept_after)
            legal[rows, changes] = True
            removed[rows, changes] = (1 - kept_after / kept).sum(axis=1) / n_groups
            loss[rows, changes] = (losses_after - problem.loss_model.group_losses(kept)).sum(axis=1)
            gain[rows, changes] = _predicted_gains(problem, state, actions)
        by_position = {(a.row, a.change): a for a in actions}
        return ActionTable(
            legal=legal,
            removed=removed,
            gain=gain,
            loss=loss,
            action=lambda row, change: by_position[row, change],
        )

    def reject(self, state: EpisodeState, action: PruneAction) -> None:
        """Note the width of each group of the action."""
        for group in action.units:
            state.rejected[group] = max(state.rejected[group], action.plan.widths[group])

    def row_columns(
        self, network: Network, plan: Plan, rows: Sequence[TaskRow]
    ) -> NDArray[np.float64]:
        """Give no column."""
        return np.empty((len(rows), 0))

    def describe(self, change: int) -> str:
        """Give the number of steps: `x2`."""
        return self.changes[change]


def _legal_actions(network: Network, state: EpisodeState, max_rows: int) -> list[PruneAction]:
    table = state.table
    widths = state.plan.widths
    least = [
        max(group.minimum, rejected + 1)
        for group, rejected in zip(network.groups, state.rejected.tolist(), strict=True)
    ]
    actions = []
    for change, count in enumerate(STEP_COUNTS):
        narrowed = [
            width_after_steps(width, step, count)
            for width, step in zip(widths, table.steps, strict=True)
        ]
        is_legal = [width >= low for width, low in zip(narrowed, least, strict=True)]
        for at, row in enumerate(table.rows[:max_rows]):
            # a list is faster than a generator where it is this short
            if row.groups and all([is_legal[group] for group in row.groups]):  # noqa: C419
                changed = list(widths)
                for group in row.groups:
                    changed[group] = narrowed[group]
                plan = Plan(tuple(changed), state.plan.schemes)
                actions.append(PruneAction(at, change, row.groups, plan))
    return actions


def _predicted_gains(
    problem: Problem, state: EpisodeState, actions: Sequence[PruneAction]
) -> NDArray[np.float64]:
    """Predict the log latency ratio of each action; 0 where a task cannot be predicted."""
    network = problem.network
    # Of each action, the subgraphs whose task it changes.
    touched = [network.shaped_by(action.units) for action in actions]
    workloads = chain.from_iterable(
        network.workloads_of(subgraphs, action.plan)
        for action, subgraphs in zip(actions, touched, strict=True)
    )
    costs = problem.latency.predict(list(workloads))
    after_s = np.array([cost.latency_s for cost in costs])
    now_s = np.array([cost.latency_s for cost in state.costs])[list(chain.from_iterable(touched))]
    owners = np.repeat(np.arange(len(actions)), [len(subgraphs) for subgraphs in touched])
    total_s = state.table.latency_s
    with np.errstate(invalid="ignore"):
        changed_s = np.bincount(owners, after_s - now_s, len(actions)).astype(np.float64)
        return log_ratio(total_s, total_s + changed_s)
