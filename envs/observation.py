"""What an agent sees: the subgraph table as rows of numbers, and what each action would do.

A row is a task of the current table; columns are the same for every network, so one policy reads them
all. The order of the columns is `FEATURES`; its hash stands in every policy file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.contracts import TaskCost
from cprune_rl.envs.problem import N_DESCRIPTORS, Problem
from cprune_rl.table import Network, Plan, SubgraphTable, Workload, lower_multiple

__all__ = ["FEATURES", "N_FEATURES", "N_GLOBALS", "N_WIDTHS", "STEP_COUNTS", "EpisodeState", "Move", "feature_hash", "list_moves", "observe"]

STEP_COUNTS = (1, 2, 4)
N_WIDTHS = len(STEP_COUNTS)
_GLOBALS = ("log_slack", "slack_share", "floor_drop", "log_gain_so_far", "steps", "rejections", *(f"device_{i}" for i in range(N_DESCRIPTORS)))
_PER_ACTION = ("legal", "fraction_removed", "log_gain", "log_loss_over_slack", "score")
FEATURES = (
    "valid", "log_share", "share", "weight", "log2_channels_in", "log2_channels_out", "kept_in", "kept_out", "log_latency", "log_density",
    "n_groups", "is_depthwise", "is_dense", "is_3x3", "stride", "log2_height", "log_importance", "curvature", "log_realised_over_predicted", "evidence",
    *(f"{name}_x{count}" for name in _PER_ACTION for count in STEP_COUNTS), *_GLOBALS,
)  # fmt: skip
N_FEATURES = len(FEATURES)
N_GLOBALS = len(_GLOBALS)


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
    groups = network.groups
    for r, row in enumerate(table.rows[:max_rows]):
        if not row.groups:
            continue
        for w, count in enumerate(STEP_COUNTS):
            widths = list(table.plan.widths)
            for g in row.groups:
                widths[g] = lower_multiple(widths[g], table.steps[g], count)
            if all(widths[g] >= groups[g].minimum and widths[g] > banned[g] for g in row.groups):
                moves.append(Move(r, w, row.groups, Plan(tuple(widths), table.plan.schemes)))
    return moves


def _log_gain(problem: Problem, state: EpisodeState, move: Move, affected: Sequence[int]) -> float:
    """Log latency ratio of a move, by cheap looks."""
    network, widths = problem.network, move.plan.widths
    workloads: list[Workload] = [network.workload(s, widths) for s in affected]
    after = sum(c.latency_s for c in problem.latency.predict(workloads))
    before = sum(state.costs[s].latency_s for s in affected)
    total = state.table.latency_s
    rest = total - before + after
    return math.log(total / rest) if math.isfinite(rest) and rest > 0 else 0.0


def observe(problem: Problem, state: EpisodeState, moves: Sequence[Move], affected: Sequence[Sequence[int]], max_rows: int) -> NDArray[np.float32]:
    """The observation.

    Args:
        problem: what is being solved.
        state: where the episode stands.
        moves: legal moves.
        affected: for each group the subgraphs whose shape depends on it.
        max_rows: rows of the result; tasks beyond it are not seen.

    Returns:
        `(max_rows, N_FEATURES)` float32 in [-10, 10]; rows without a task are 0.
    """
    rows = state.table.rows[:max_rows]
    result = np.zeros((max_rows, N_FEATURES), np.float32)
    if not rows:
        return result
    n = len(rows)
    dense, widths = np.array(problem.network.dense.widths, float), np.array(state.plan.widths, float)
    kept = widths / dense
    membership = np.zeros((n, len(dense)))
    for r, row in enumerate(rows):
        membership[r, list(row.groups)] = 1.0
    loss_now = problem.curves.loss(kept)
    slack = max(state.accuracy - problem.floor, 0.0) * 100
    trust = np.clip((membership @ state.realised * 100 + 0.1) / (membership @ state.predicted * 100 + 0.1), 0.2, 5.0)
    columns = _row_columns(problem, state, kept, membership, trust)
    actions = _action_columns(problem, state, moves, affected, (n, kept, loss_now, membership, trust, slack))
    drop = (problem.dense_accuracy - problem.floor) * 100
    descriptor = problem.descriptor
    globals_ = [math.log(slack + 0.01) / 2, min(slack / max(drop, 1e-6), 2.0), drop / 3, math.log(state.dense_latency_s / state.table.latency_s)]
    globals_ += [min(state.n_steps / 60, 1.0), state.n_rejections / 8, *descriptor]
    result[:n] = np.concatenate([columns, actions, np.broadcast_to(np.array(globals_), (n, N_GLOBALS))], axis=1)
    return np.clip(np.nan_to_num(result), -10, 10)


def _row_columns(problem: Problem, state: EpisodeState, kept: NDArray[np.float64], membership: NDArray[np.float64], trust: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = state.table.rows[: len(membership)]
    total, mean = state.table.latency_s, state.dense_latency_s / len(problem.network.subgraphs)
    facts = np.array(
        [
            (
                r.weight, r.latency_s, r.workload.channels_in, r.workload.channels_out, max(2.0 * r.workload.macs, 1.0), len(r.groups),
                r.workload.operator.name == "depthwise", r.workload.operator.name == "dense", r.workload.operator.kernel == 3,
                r.workload.operator.stride, r.workload.operator.height, *_kept_in_out(problem.network, kept, r.subgraphs[0], r.groups),
            )
            for r in rows
        ],
        dtype=float,
    ).T  # fmt: skip
    weight, latency, c_in, c_out, flops, n_groups, depthwise, dense, is_3x3, stride, height, kept_in, kept_out = facts
    share = weight * latency / total
    members = np.maximum(n_groups, 1)
    importance = membership @ problem.curves.scale * 100
    return np.stack(
        [
            np.ones(len(rows)), np.log(np.maximum(share, 1e-4)) + 3, share * 3, weight / 3, np.log2(c_in) / 4 - 1.5, np.log2(c_out) / 4 - 1.5, kept_in, kept_out,
            np.log(latency / mean) / 2, (np.log(flops / latency) - 23) / 2, n_groups / 3, depthwise, dense, is_3x3, stride - 1, np.log2(height) / 3,
            np.log(importance + 0.01) / 2, membership @ problem.curves.power / members - 2, np.log(trust), np.minimum(membership @ state.predicted * 100, 2),
        ],
        axis=1,
    )  # fmt: skip


def _kept_in_out(network: Network, kept: NDArray[np.float64], subgraph: int, written: Sequence[int]) -> tuple[float, float]:
    out = [kept[g] for g in written]
    read = [kept[g] for g in network.touched_groups[subgraph] if g not in written]
    return (sum(read) / len(read) if read else 1.0), (sum(out) / len(out) if out else 1.0)


_ActionContext = tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]


def _action_columns(problem: Problem, state: EpisodeState, moves: Sequence[Move], affected: Sequence[Sequence[int]], context: _ActionContext) -> NDArray[np.float64]:
    """`(n, 5 * N_WIDTHS)`: legality, fraction removed, log gain, log loss against slack, score."""
    n, kept, loss_now, membership, trust, slack = context
    legal = np.zeros((n, N_WIDTHS))
    removed = np.zeros((n, N_WIDTHS))
    gain = np.zeros((n, N_WIDTHS))
    loss = np.zeros((n, N_WIDTHS))
    if moves:
        dense = np.array(problem.network.dense.widths, float)
        at = (np.array([m.row for m in moves]), np.array([m.width for m in moves]))
        after = np.array([m.plan.widths for m in moves], float) / dense
        members = np.maximum(membership.sum(axis=1), 1)[at[0]]
        legal[at] = 1.0
        removed[at] = (1 - after / kept).sum(axis=1) / members
        loss[at] = (problem.curves.loss(after) - loss_now).sum(axis=1) * 100 * trust[at[0]]
        gain[at] = [_log_gain(problem, state, m, _touched(affected, m.groups)) for m in moves]
    log_gain = np.log(np.maximum(gain, 0) + 1e-4)
    log_loss = np.log(np.maximum(loss, 0) + 1e-3)
    columns = [legal, removed * 3, log_gain / 2 + 1.5, (log_loss - math.log(slack + 0.01)) / 2, (log_gain - log_loss) / 2]
    return np.concatenate(columns, axis=1)


def _touched(affected: Sequence[Sequence[int]], groups: Sequence[int]) -> Sequence[int]:
    return affected[groups[0]] if len(groups) == 1 else sorted({s for g in groups for s in affected[g]})
