"""The actions of the scheme mapping: a scheme for the layers of a row, in place of what they have.

A change is offered where it is sparser than what a layer has and is predicted to be faster: blocks
that run slower than the dense layer are not worth an evaluation. Gong et al. (2021) choose among
the same schemes, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import DENSITY_POWER, LossModel, scheme_penalty
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import KINDS, MAX_PATTERN_DENSITY, Scheme
from cprune_rl.core.subgraph_table import TaskRow
from cprune_rl.core.workload import Workload
from cprune_rl.envs.actions.base import ActionTable, EpisodeState, PruneAction, log_ratio
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import ConfigError

__all__ = [
    "ALL_CHANNELS",
    "DENSITIES",
    "SCHEMES",
    "SCHEME_SHAPES",
    "START_RATIOS",
    "SchemeActions",
    "SchemeShape",
    "prunable_layers",
    "scheme_plans",
]

ALL_CHANNELS = 1 << 20  # more than any layer has: one block


class SchemeShape(NamedTuple):
    """A kind of scheme and its block size."""

    kind: str
    block: int


SCHEME_SHAPES = (
    *(SchemeShape("block", size) for size in (4, 8, 16, ALL_CHANNELS)),
    *(SchemeShape("kernel", size) for size in (8, 16, 32)),
    SchemeShape("pattern", 4),
)
DENSITIES = (0.5, 0.35, 0.25, 0.175, 0.125, 0.0625)
SCHEMES = tuple(
    Scheme(kind, block, density)
    for kind, block in SCHEME_SHAPES
    for density in DENSITIES
    if kind != "pattern" or density <= MAX_PATTERN_DENSITY
)
_SCHEME_DENSITIES = np.array([scheme.density for scheme in SCHEMES])
# Kept ratios of the uniform plans that a policy of schemes learns to start from, where channels may
# have been pruned before.
START_RATIOS = (1.0, 0.75, 0.5)
_MAX_REMEMBERED = 256  # networks with their widths


def prunable_layers(network: Network, kind: str) -> list[str]:
    """List the layers that a kind of scheme can prune."""
    return [
        layer
        for layer, at in network.scheme_layers.items()
        if kind == "block" or network.has_3x3_kernels(at)
    ]


def scheme_plans(network: Network, density: float) -> list[Plan]:
    """Make a plan for each shape of scheme, which prunes all layers that it can at one density.

    A table of latencies is measured on such plans.

    Args:
        network: whose plans.
        density: share of the weights that are kept.
    """
    plans = []
    for kind, block in SCHEME_SHAPES:
        layers = prunable_layers(network, kind)
        if layers and (kind != "pattern" or density <= MAX_PATTERN_DENSITY):
            text = str(Scheme(kind, block, density))
            plans.append(Plan(network.dense.widths, tuple((layer, text) for layer in layers)))
    return plans


@dataclass(frozen=True, eq=False)
class _SchemeTasks:
    """The tasks that schemes make of a network's layers at given widths.

    Attributes:
        layers: `(n,)` layer of each task.
        schemes: `(n,)` scheme of each task, a position in `SCHEMES`.
        workloads: the `n` tasks.
        penalties: `(n_layers, n_schemes)`.
    """

    layers: NDArray[np.intp]
    schemes: NDArray[np.intp]
    workloads: list[Workload]
    penalties: NDArray[np.float64]

    @classmethod
    def from_plan(cls, network: Network, plan: Plan) -> _SchemeTasks:
        """Find the tasks of each layer by each scheme that can prune it."""
        n_layers = len(network.scheme_layers)
        prunable = {kind: set(prunable_layers(network, kind)) for kind in KINDS}
        is_prunable = [
            [layer in prunable[scheme.kind] for scheme in SCHEMES]
            for layer in network.scheme_layers
        ]
        layers, schemes = np.nonzero(np.array(is_prunable, bool).reshape(n_layers, len(SCHEMES)))
        widths = network.widths(plan)
        subgraphs = [network.subgraphs[at] for at in network.scheme_layers.values()]
        workloads = [
            subgraphs[layer].workload(widths, SCHEMES[scheme])
            for layer, scheme in zip(layers, schemes, strict=True)
        ]
        penalties = [
            [scheme_penalty(scheme, channels) for scheme in SCHEMES]
            for channels in network.layer_channels
        ]
        shape = (n_layers, len(SCHEMES))
        return cls(layers, schemes, workloads, np.array(penalties, float).reshape(shape))


class SchemeActions:
    """An `ActionSet` whose units are layers that a scheme may prune.

    `EpisodeState.rejected` holds the largest density that was rejected of each layer and scheme.
    """

    changes = tuple(
        f"{s.kind}_{'all' if s.block == ALL_CHANNELS else s.block}_{s.density:g}" for s in SCHEMES
    )
    row_features = ("density", "log2_block", *(f"is_{kind}" for kind in KINDS))

    def __init__(self) -> None:
        self._remembered: dict[tuple[int, tuple[int, ...]], tuple[Network, _SchemeTasks]] = {}

    def no_rejections(self, network: Network) -> NDArray[np.float64]:
        """Give a density of 0 for each layer and scheme."""
        return np.zeros((len(network.scheme_layers), len(SCHEMES)))

    def row_units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """Give the layers of the row; none where a scheme cannot prune one of them."""
        layers = _row_layers(network, row)
        if len(layers) < len(row.subgraphs):
            return ()
        return tuple(network.layer_index[layer] for layer in layers)

    def unit_shapes(self, loss_model: LossModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the scale and the power of each layer's loss."""
        return loss_model.layer_scale, np.full(len(loss_model.layer_scale), DENSITY_POWER)

    def unit_losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """Predict the loss of each layer."""
        return problem.loss_model.layer_losses(problem.network, plan)

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """Offer what is sparser than the layers are and was not rejected, if predicted faster.

        Raises:
            ConfigError: the problem's loss model does not know layers.
        """
        network = problem.network
        rows = state.table.rows[:max_rows]
        n_layers = len(network.scheme_layers)
        if len(problem.loss_model.layer_scale) != n_layers:
            raise ConfigError(
                f"{problem.name} was opened for channels alone: open it with change='schemes' "
                "(--change schemes), so that the oracle says what layers lose"
            )
        tasks = self._tasks(network, state.plan)
        is_member = np.zeros((len(rows), n_layers))
        for at, row in enumerate(rows):
            is_member[at, list(self.row_units(network, row))] = 1.0
        n_members = is_member.sum(axis=1, keepdims=True)
        # Of each layer: its seconds now, and by each scheme; infinite where there is no task.
        now_s = np.array([[state.costs[at].latency_s] for at in network.scheme_layers.values()])
        now_s = now_s.reshape(n_layers, 1)
        after_s = np.full((n_layers, len(SCHEMES)), np.inf)
        costs = problem.latency.predict(tasks.workloads)
        after_s[tasks.layers, tasks.schemes] = [cost.latency_s for cost in costs]
        is_known = np.isfinite(after_s)
        density = np.ones((n_layers, 1))
        for layer, text in state.plan.schemes:
            density[network.layer_index[layer]] = Scheme.parse(text).density
        is_sparser = (density > _SCHEME_DENSITIES) & (state.rejected < _SCHEME_DENSITIES)
        changed_s = np.where(is_known, after_s, now_s) - now_s
        total_s = state.table.latency_s
        gain = log_ratio(total_s, total_s + is_member @ changed_s)
        is_refused = is_member @ ~(is_known & is_sparser)
        legal = (n_members > 0) & (is_refused == 0) & (gain > 0)
        loss_after = problem.loss_model.layer_scale[:, None] * tasks.penalties
        loss = loss_after - self.unit_losses(problem, state.plan)[:, None]
        removed = (is_member @ (1 - _SCHEME_DENSITIES / density)) / np.maximum(n_members, 1)
        return ActionTable(
            legal=legal,
            removed=np.where(legal, removed, 0.0),
            gain=np.where(legal, gain, 0.0),
            loss=np.where(legal, is_member @ loss, 0.0),
            action=lambda row, change: _action(network, state, row, change),
        )

    def reject(self, state: EpisodeState, action: PruneAction) -> None:
        """Note what is as dense or sparser by the same kind, in blocks as large or larger."""
        rejected = SCHEMES[action.change]
        is_worse = np.array(
            [s.kind == rejected.kind and s.block >= rejected.block for s in SCHEMES]
        )
        for layer in action.units:
            densities = state.rejected[layer]
            densities[is_worse] = np.maximum(densities[is_worse], rejected.density)

    def row_columns(
        self, network: Network, plan: Plan, rows: Sequence[TaskRow]
    ) -> NDArray[np.float64]:
        """Give density, block and kind; of a dense row a density of 1 and nothing else."""
        schemes = network.schemes(plan)
        columns = np.zeros((len(rows), len(self.row_features)))
        columns[:, 0] = 1.0
        for at, row in enumerate(rows):
            scheme = schemes.get(row.subgraphs[0])
            if scheme is not None:
                is_kind = [scheme.kind == kind for kind in KINDS]
                columns[at] = (scheme.density, math.log2(row.workload.block) / 4, *is_kind)
        return columns

    def describe(self, change: int) -> str:
        """Give kind, block and density: `block of 8, 0.25`."""
        scheme = SCHEMES[change]
        block = "all" if scheme.block == ALL_CHANNELS else scheme.block
        return f"{scheme.kind} of {block}, {scheme.density:.3g}"

    def _tasks(self, network: Network, plan: Plan) -> _SchemeTasks:
        """Give the tasks of a network at the plan's widths; remembered."""
        key = (id(network), plan.widths)
        remembered = self._remembered.get(key)
        # an id is given again where a network is gone
        if remembered is None or remembered[0] is not network:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            remembered = (network, _SchemeTasks.from_plan(network, plan))
            self._remembered[key] = remembered
        return remembered[1]


def _row_layers(network: Network, row: TaskRow) -> list[str]:
    """List the layers of a row that a scheme may prune."""
    sparse = [network.subgraphs[at].block_sparse for at in row.subgraphs]
    return [block.layer for block in sparse if block is not None]


def _action(network: Network, state: EpisodeState, row: int, change: int) -> PruneAction:
    layers = _row_layers(network, state.table.rows[row])
    schemes = dict(state.plan.schemes) | dict.fromkeys(layers, str(SCHEMES[change]))
    plan = Plan(state.plan.widths, tuple(schemes.items()))
    return PruneAction(row, change, tuple(network.layer_index[layer] for layer in layers), plan)
