"""Mapping's changes: a row's layers pruned by a scheme, a block size and a density, in the place of
what they have.

Offered is what is sparser than what a layer has and promises to be faster: blocks that the compiler
makes slower than the dense
layer are no change worth a look. Gong et al. (2021) choose among the same, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
)  # fmt: skip
DENSITIES = (0.5, 0.35, 0.25, 0.175, 0.125, 0.0625)
SCHEMES = tuple(
    Scheme(kind, block, density)
    for kind, block in SCHEME_SHAPES
    for density in DENSITIES
    if kind != "pattern" or density <= MAX_PATTERN_DENSITY
)
START_RATIOS = (1.0, 0.75, 0.5)
"""Shares of channels that a policy of schemes learns to begin with, where channels may have been
pruned before.
"""
_MOST_REMEMBERED = 256  # networks' widths


@dataclass(frozen=True, eq=False)
class _Offers:
    """What depends on a network and its widths alone.

    Attributes:
        allowed: `(n_layers, n_schemes)` whether a layer can be pruned so.
        workloads: the task of each allowed pair, row by row.
        scheme_penalty: `(n_layers, n_schemes)`.
    """

    allowed: NDArray[np.bool_]
    workloads: list[Workload]
    scheme_penalty: NDArray[np.float64]

    @cached_property
    def at(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of the allowed pairs."""
        layers, schemes = np.nonzero(self.allowed)
        return layers, schemes


def prunable_layers(network: Network, kind: str) -> list[str]:
    """The layers that can be pruned by a kind of scheme."""
    return [
        layer
        for layer, at in network.scheme_layers.items()
        if kind == "block" or network.has_3x3_kernels(at)
    ]


def scheme_plans(network: Network, density: float) -> list[Plan]:
    """Plans of which each prunes all layers that it can by one shape of scheme, at one density:

    what a table of latencies is made of.

    Args:
        network: whose plans.
        density: share of entries that are kept.
    """
    layers = {kind: prunable_layers(network, kind) for kind in KINDS}
    shapes = [
        s
        for s in SCHEME_SHAPES
        if layers[s.kind] and (s.kind != "pattern" or density <= MAX_PATTERN_DENSITY)
    ]
    return [
        Plan(
            network.dense.widths,
            tuple((layer, str(Scheme(kind, block, density))) for layer in layers[kind]),
        )
        for kind, block in shapes
    ]


class SchemeActions:
    """See the module (and `action_set.ActionSet`);

    units are layers, `rejected` holds the largest density rejected of each layer and shape.
    """

    changes = tuple(
        f"{s.kind}_{'all' if s.block == ALL_CHANNELS else s.block}_{s.density:g}" for s in SCHEMES
    )
    row_features = ("density", "log2_block", *(f"is_{kind}" for kind in KINDS))

    def __init__(self) -> None:
        self._offers: dict[tuple[int, tuple[int, ...]], tuple[Network, _Offers]] = {}

    def begin(self, network: Network) -> NDArray[np.float64]:
        """See `ActionSet`."""
        return np.zeros((len(network.scheme_layers), len(SCHEMES)))

    def n_units(self, network: Network) -> int:
        """See `ActionSet`."""
        return len(network.scheme_layers)

    def units(self, network: Network, row: TaskRow) -> tuple[int, ...]:
        """See `ActionSet`; none where a layer of the row takes no scheme."""
        layers = [network.subgraphs[s].block_sparse for s in row.subgraphs]
        return (
            tuple(network.layer_index[b.layer] for b in layers if b is not None)
            if all(layers)
            else ()
        )

    def shape_of_losses(
        self, loss_model: LossModel
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ActionSet`."""
        return loss_model.layer_scale, np.full(len(loss_model.layer_scale), DENSITY_POWER)

    def losses(self, problem: Problem, plan: Plan) -> NDArray[np.float64]:
        """See `ActionSet`."""
        return problem.loss_model.layer_losses(problem.network, plan)

    def action_table(self, problem: Problem, state: EpisodeState, max_rows: int) -> ActionTable:
        """See `ActionSet`; sparser than what the layers have, than anything of the kind that was
        rejected, and faster by cheap looks.

        Raises:
            ConfigError: nothing is known of what layers lose.
        """
        network, rows = problem.network, state.table.rows[:max_rows]
        if len(problem.loss_model.layer_scale) != len(network.scheme_layers):
            raise ConfigError(
                f"{problem.name} was opened for channels alone: open it with schemes='block' (--schemes block), so that the oracle says what layers lose"
            )
        offers = self._offers_of(network, state.plan)
        n_layers = len(network.scheme_layers)
        member = np.zeros((len(rows), n_layers))
        for r, row in enumerate(rows):
            member[r, list(self.units(network, row))] = 1.0
        seconds = np.full(offers.allowed.shape, np.inf)
        seconds[offers.at] = [c.latency_s for c in problem.latency.predict(offers.workloads)]
        now = np.array(
            [state.costs[at].latency_s for at in network.scheme_layers.values()]
        ).reshape(n_layers, 1)
        density = np.ones((n_layers, 1))
        for layer, text in state.plan.schemes:
            density[network.layer_index[layer]] = Scheme.parse(text).density
        wanted = _DENSITY_OF[None, :]
        may = offers.allowed & (wanted < density) & (wanted > state.rejected) & np.isfinite(seconds)
        faster = np.where(np.isfinite(seconds), seconds, now) - now
        total = state.table.latency_s
        gain = log_ratio(total, total + member @ faster)
        n_members = member.sum(axis=1, keepdims=True)
        legal = (n_members > 0) & (member @ ~may == 0) & (gain > 0)
        lost = (
            problem.loss_model.layer_scale[:, None] * offers.scheme_penalty
            - problem.loss_model.layer_losses(network, state.plan)[:, None]
        )
        removed = (member @ (1 - wanted / density)) / np.maximum(n_members, 1)
        return ActionTable(
            legal,
            np.where(legal, removed, 0.0),
            np.where(legal, gain, 0.0),
            np.where(legal, member @ lost, 0.0),
            lambda row, change: self._move(network, state, row, change),
        )

    def reject(self, state: EpisodeState, move: PruneAction) -> None:
        """See `ActionSet`: as dense or sparser by the same kind, in blocks as large or larger."""
        refused = SCHEMES[move.change]
        worse = np.array([s.kind == refused.kind and s.block >= refused.block for s in SCHEMES])
        for layer in move.units:
            state.rejected[layer, worse] = np.maximum(state.rejected[layer, worse], refused.density)

    def columns(self, network: Network, plan: Plan, rows: Sequence[TaskRow]) -> NDArray[np.float64]:
        """See `ActionSet`; of a dense row a density of 1 and nothing else."""
        schemes = network.schemes(plan)
        found = np.zeros((len(rows), len(self.row_features)))
        found[:, 0] = 1.0
        for at, row in enumerate(rows):
            scheme = schemes.get(row.subgraphs[0])
            if scheme is not None:
                found[at] = (
                    scheme.density,
                    math.log2(row.workload.block) / 4,
                    *(scheme.kind == kind for kind in KINDS),
                )
        return found

    def describe(self, change: int) -> str:
        """See `ActionSet`."""
        scheme = SCHEMES[change]
        return f"{scheme.kind} of {'all' if scheme.block == ALL_CHANNELS else scheme.block}, {scheme.density:.3g}"

    def _move(self, network: Network, state: EpisodeState, row: int, change: int) -> PruneAction:
        layers = [
            b.layer
            for s in state.table.rows[row].subgraphs
            if (b := network.subgraphs[s].block_sparse) is not None
        ]
        schemes = {**dict(state.plan.schemes), **dict.fromkeys(layers, str(SCHEMES[change]))}
        return PruneAction(
            row,
            change,
            tuple(network.layer_index[layer] for layer in layers),
            Plan(state.plan.widths, tuple(schemes.items())),
        )

    def _offers_of(self, network: Network, plan: Plan) -> _Offers:
        key = id(network), plan.widths
        known = self._offers.get(key)
        if known is None or known[0] is not network:
            if len(self._offers) >= _MOST_REMEMBERED:
                self._offers.clear()
            known = self._offers[key] = (network, _offers(network, plan))
        return known[1]


_DENSITY_OF = np.array([s.density for s in SCHEMES])


def _offers(network: Network, plan: Plan) -> _Offers:
    widths, layers = network.widths(plan), list(network.scheme_layers)
    prunable = {kind: set(prunable_layers(network, kind)) for kind in KINDS}
    allowed = np.array(
        [[layer in prunable[s.kind] for s in SCHEMES] for layer in layers], bool
    ).reshape(len(layers), len(SCHEMES))
    subgraphs = [network.subgraphs[at] for at in network.scheme_layers.values()]
    workloads = [
        subgraphs[i].workload(widths, SCHEMES[s]) for i, s in zip(*np.nonzero(allowed), strict=True)
    ]
    hard = np.array(
        [[scheme_penalty(s, channels) for s in SCHEMES] for channels in network.layer_channels]
    ).reshape(len(layers), len(SCHEMES))
    return _Offers(allowed, workloads, hard)
