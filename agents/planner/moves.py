"""The plans that a search on a model moves among, as vectors of whole numbers:

widths of groups, schemes of layers within given widths, or both.

Called by `surrogate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import KINDS, Scheme
from cprune_rl.envs.actions.layer_schemes import SCHEMES, prunable_layers

__all__ = ["ChannelSpace", "JointSpace", "PlanSpace", "SchemeSpace"]

Vector = NDArray[np.int64]
_DENSE = -1  # option of a layer that no scheme prunes


class PlanSpace(Protocol):
    """Plans as vectors, and steps between them."""

    def encode(self, plan: Plan) -> Vector:
        """A plan of this space as a vector."""

    def decode(self, at: Vector) -> Plan:
        """The plan of a vector."""

    def neighbour(
        self, at: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """A plan nearby, and the positions of the subgraphs whose tasks may be others there.

        Args:
            at: where to start.
            rng: what is drawn from.
            n_changes: groups, or layers, that are changed.
        """


class ChannelSpace:
    """Widths of groups, by legal steps (see `PlanSpace`).

    Args:
        network: whose plans.
        steps: legal step of each group, in channels.
    """

    def __init__(self, network: Network, steps: Sequence[int]) -> None:
        self._network, self._steps = network, np.array(steps)
        minimum, self._channels = (
            np.array([getattr(g, name) for g in network.groups]) for name in ("minimum", "channels")
        )
        self._minimum = np.minimum(
            -(-minimum // self._steps) * self._steps, self._channels
        )  # the environment stops there too

    def encode(self, plan: Plan) -> Vector:
        """See `PlanSpace`."""
        return np.array(plan.widths)

    def decode(self, at: Vector) -> Plan:
        """See `PlanSpace`."""
        return Plan(tuple(at.tolist()))

    def neighbour(
        self, at: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """See `PlanSpace`; the first change more often narrows, further ones more often widen."""
        widths = at.copy()
        groups = set()
        for change in range(n_changes):
            g = int(rng.integers(len(widths)))
            sign = 1 if rng.random() < (0.6 if change else 0.4) else -1
            moved = widths[g] + sign * int(rng.choice((1, 1, 2, 4))) * self._steps[g]
            if moved < self._channels[g]:
                moved = moved // self._steps[g] * self._steps[g]
            widths[g] = min(max(moved, self._minimum[g]), self._channels[g])
            groups.add(g)
        return widths, self._network.shaped_by(tuple(sorted(groups)))


class SchemeSpace:
    """A scheme for each layer, or none, of those that `scheme_menu` offers (see `PlanSpace`).

    Args:
        network: whose plans.
        widths: of its groups, which stay.
    """

    def __init__(self, network: Network, widths: tuple[int, ...]) -> None:
        self._widths, self._layers = widths, list(network.scheme_layers)
        self._subgraphs = list(network.scheme_layers.values())
        prunable = {kind: set(prunable_layers(network, kind)) for kind in KINDS}
        self._texts = [str(s) for s in SCHEMES]
        of_layers = [
            [at for at, s in enumerate(SCHEMES) if layer in prunable[s.kind]]
            for layer in self._layers
        ]
        self._options = [np.array([_DENSE, *options]) for options in of_layers]
        self._near = [
            {option: _near(option, options) for option in (_DENSE, *options)}
            for options in of_layers
        ]

    def encode(self, plan: Plan) -> Vector:
        """See `PlanSpace`; a scheme that is not offered is taken for the nearest one of its kind
        that loses no more.
        """
        schemes = dict(plan.schemes)
        return np.array(
            [
                _DENSE if layer not in schemes else _nearest(schemes[layer], self._options[i])
                for i, layer in enumerate(self._layers)
            ],
            np.int64,
        )

    def decode(self, at: Vector) -> Plan:
        """See `PlanSpace`."""
        return Plan(self._widths, self.schemes(at))

    def schemes(self, at: Vector) -> tuple[tuple[str, str], ...]:
        """The schemes of a vector, by layer."""
        return tuple(
            (layer, self._texts[option])
            for layer, option in zip(self._layers, at.tolist(), strict=True)
            if option != _DENSE
        )

    def neighbour(
        self, at: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """See `PlanSpace`; a third of the changes go anywhere, the others to a density or a block
        size next to the layer's.
        """
        options, touched = at.copy(), set()
        for _ in range(n_changes):
            layer = int(rng.integers(len(options)))
            nearby = (
                self._options[layer]
                if rng.random() < 1 / 3
                else self._near[layer][int(options[layer])]
            )
            options[layer] = nearby[int(rng.integers(len(nearby)))]
            touched.add(self._subgraphs[layer])
        return options, tuple(sorted(touched))


class JointSpace:
    """Widths of groups and schemes of layers together (see `PlanSpace`).

    Args:
        network: whose plans.
        steps: legal step of each group, in channels.
    """

    def __init__(self, network: Network, steps: Sequence[int]) -> None:
        self._n_groups = len(network.groups)
        self._channels, self._schemes = (
            ChannelSpace(network, steps),
            SchemeSpace(network, network.dense.widths),
        )

    def encode(self, plan: Plan) -> Vector:
        """See `PlanSpace`."""
        return np.concatenate([self._channels.encode(plan), self._schemes.encode(plan)])

    def decode(self, at: Vector) -> Plan:
        """See `PlanSpace`."""
        return Plan(
            tuple(at[: self._n_groups].tolist()), self._schemes.schemes(at[self._n_groups :])
        )

    def neighbour(
        self, at: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """See `PlanSpace`; each change is as likely of a group as of a layer."""
        n_of_groups = int(rng.binomial(n_changes, 0.5))
        widths, of_groups = self._channels.neighbour(at[: self._n_groups], rng, n_of_groups)
        options, of_layers = self._schemes.neighbour(
            at[self._n_groups :], rng, n_changes - n_of_groups
        )
        return np.concatenate([widths, options]), tuple(sorted({*of_groups, *of_layers}))


def _near(option: int, options: Sequence[int]) -> NDArray[np.int64]:
    """Options a density or a shape away;

    of a dense layer the densest of each shape, and the other way round.
    """
    densest = [
        o
        for o in options
        if not any(
            _shape(p) == _shape(o) and SCHEMES[p].density > SCHEMES[o].density for p in options
        )
    ]
    if option == _DENSE:
        return np.array(densest)
    here = SCHEMES[option]
    densities = sorted({SCHEMES[o].density for o in options if _shape(o) == _shape(option)})
    at = densities.index(here.density)
    beside = set(densities[max(at - 1, 0) : at + 2])
    found = [
        o
        for o in options
        if o != option
        and (
            (_shape(o) == _shape(option) and SCHEMES[o].density in beside)
            or SCHEMES[o].density == here.density
        )
    ]
    return np.array([*found, *([_DENSE] if option in densest else [])])


def _shape(option: int) -> tuple[str, int]:
    return SCHEMES[option].kind, SCHEMES[option].block


def _nearest(text: str, options: NDArray[np.int64]) -> int:
    asked = Scheme.parse(text)
    same = [
        int(o)
        for o in options
        if o != _DENSE and SCHEMES[o].kind == asked.kind and SCHEMES[o].block <= asked.block
    ]
    denser = [o for o in same if SCHEMES[o].density >= asked.density]
    return min(denser, key=lambda o: (SCHEMES[o].density, -SCHEMES[o].block)) if denser else _DENSE
