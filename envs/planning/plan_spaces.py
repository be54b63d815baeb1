"""The plans that a search on a model moves among, as vectors of whole numbers.

They are widths of groups, schemes of layers within given widths, or both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import KINDS, Scheme
from cprune_rl.envs.actions.scheme_actions import SCHEMES, prunable_layers

__all__ = ["ChannelSpace", "JointSpace", "PlanSpace", "SchemeSpace"]

Vector = NDArray[np.int64]
_DENSE = -1  # option of a layer that no scheme prunes


class PlanSpace(Protocol):
    """Plans as vectors, and steps between them."""

    def encode(self, plan: Plan) -> Vector:
        """Write a plan of this space as a vector."""

    def decode(self, vector: Vector) -> Plan:
        """Read the plan of a vector."""

    def neighbour(
        self, vector: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """Draw a plan nearby.

        Args:
            vector: where to start.
            rng: what is drawn from.
            n_changes: groups, or layers, that are changed.

        Returns:
            The plan, and the positions of the subgraphs whose tasks may be others there.
        """


class ChannelSpace:
    """Widths of groups, by legal steps.

    Args:
        network: whose plans.
        steps: legal step of each group, in channels.
    """

    def __init__(self, network: Network, steps: Sequence[int]) -> None:
        self._network = network
        self._steps = np.array(steps)
        self._channels = np.array([g.channels for g in network.groups])
        minimum = np.array([g.minimum for g in network.groups])
        # The environment stops there too.
        whole_steps = -(-minimum // self._steps) * self._steps
        self._minimum = np.minimum(whole_steps, self._channels)

    def encode(self, plan: Plan) -> Vector:
        """Take the plan's widths."""
        return np.array(plan.widths)

    def decode(self, vector: Vector) -> Plan:
        """Take the vector for widths."""
        return Plan(tuple(vector.tolist()))

    def neighbour(
        self, vector: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """Draw a plan nearby.

        The first change more often narrows, further ones more often widen.
        """
        widths = vector.copy()
        groups = set()
        for change in range(n_changes):
            g = int(rng.integers(len(widths)))
            widening_share = 0.6 if change else 0.4
            sign = 1 if rng.random() < widening_share else -1
            width = widths[g] + sign * int(rng.choice((1, 1, 2, 4))) * self._steps[g]
            if width < self._channels[g]:
                width = width // self._steps[g] * self._steps[g]
            widths[g] = min(max(width, self._minimum[g]), self._channels[g])
            groups.add(g)
        return widths, self._network.shaped_by(tuple(sorted(groups)))


class SchemeSpace:
    """A scheme for each layer, or none, of those that the scheme environment offers.

    Args:
        network: whose plans.
        widths: of its groups, which stay.
    """

    def __init__(self, network: Network, widths: tuple[int, ...]) -> None:
        self._widths = widths
        self._layers = list(network.scheme_layers)
        self._subgraphs = list(network.scheme_layers.values())
        self._texts = [str(s) for s in SCHEMES]
        layers_of_kind = {kind: set(prunable_layers(network, kind)) for kind in KINDS}
        self._options: list[NDArray[np.int64]] = []
        self._near: list[dict[int, NDArray[np.int64]]] = []
        for layer in self._layers:
            options = [at for at, s in enumerate(SCHEMES) if layer in layers_of_kind[s.kind]]
            self._options.append(np.array([_DENSE, *options]))
            self._near.append({option: _near(option, options) for option in (_DENSE, *options)})

    def encode(self, plan: Plan) -> Vector:
        """Write a plan as options of its layers.

        A scheme that is not offered becomes the nearest one of its kind that loses no more.
        """
        schemes = dict(plan.schemes)
        vector = np.full(len(self._layers), _DENSE, np.int64)
        for at, layer in enumerate(self._layers):
            if layer in schemes:
                vector[at] = _nearest(schemes[layer], self._options[at])
        return vector

    def decode(self, vector: Vector) -> Plan:
        """Read the options of a vector, within the widths of the space."""
        return Plan(self._widths, self.schemes(vector))

    def schemes(self, vector: Vector) -> tuple[tuple[str, str], ...]:
        """Read the schemes of a vector, by layer."""
        return tuple(
            (layer, self._texts[option])
            for layer, option in zip(self._layers, vector.tolist(), strict=True)
            if option != _DENSE
        )

    def neighbour(
        self, vector: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """Draw a plan nearby.

        A third of the changes go anywhere, the others to a density or a block size next to the
        layer's.
        """
        options = vector.copy()
        subgraphs = set()
        for _ in range(n_changes):
            layer = int(rng.integers(len(options)))
            offered = self._options[layer]
            if rng.random() >= 1 / 3:
                offered = self._near[layer][int(options[layer])]
            options[layer] = offered[int(rng.integers(len(offered)))]
            subgraphs.add(self._subgraphs[layer])
        return options, tuple(sorted(subgraphs))


class JointSpace:
    """Widths of groups and schemes of layers together.

    Args:
        network: whose plans.
        steps: legal step of each group, in channels.
    """

    def __init__(self, network: Network, steps: Sequence[int]) -> None:
        self._n_groups = len(network.groups)
        self._channels = ChannelSpace(network, steps)
        self._schemes = SchemeSpace(network, network.dense.widths)

    def encode(self, plan: Plan) -> Vector:
        """Write the widths, then the options of the layers."""
        return np.concatenate([self._channels.encode(plan), self._schemes.encode(plan)])

    def decode(self, vector: Vector) -> Plan:
        """Read the widths, then the options of the layers."""
        widths = tuple(vector[: self._n_groups].tolist())
        return Plan(widths, self._schemes.schemes(vector[self._n_groups :]))

    def neighbour(
        self, vector: Vector, rng: np.random.Generator, n_changes: int
    ) -> tuple[Vector, tuple[int, ...]]:
        """Draw a plan nearby; each change is as likely of a group as of a layer."""
        n_of_groups = int(rng.binomial(n_changes, 0.5))
        widths, of_groups = self._channels.neighbour(vector[: self._n_groups], rng, n_of_groups)
        options, of_layers = self._schemes.neighbour(
            vector[self._n_groups :], rng, n_changes - n_of_groups
        )
        return np.concatenate([widths, options]), tuple(sorted({*of_groups, *of_layers}))


def _near(option: int, options: Sequence[int]) -> NDArray[np.int64]:
    """Options that are a density or a shape away.

    Those of a dense layer are the densest of each shape, and the other way round.
    """
    densities: dict[tuple[str, int], list[float]] = {}
    for o in options:
        densities.setdefault(_shape(o), []).append(SCHEMES[o].density)
    densest = [o for o in options if SCHEMES[o].density == max(densities[_shape(o)])]
    if option == _DENSE:
        return np.array(densest)
    here = SCHEMES[option]
    of_shape = sorted(set(densities[_shape(option)]))
    at = of_shape.index(here.density)
    beside = of_shape[max(at - 1, 0) : at + 2]
    near = []
    for o in options:
        is_beside = _shape(o) == _shape(option) and SCHEMES[o].density in beside
        if o != option and (is_beside or SCHEMES[o].density == here.density):
            near.append(o)
    return np.array([*near, _DENSE] if option in densest else near)


def _shape(option: int) -> tuple[str, int]:
    return SCHEMES[option].kind, SCHEMES[option].block


def _nearest(text: str, options: NDArray[np.int64]) -> int:
    """The option of a scheme's kind that is no coarser, no sparser, and nearest to it."""
    wanted = Scheme.parse(text)
    fitting = []
    for option in options.tolist():
        if option == _DENSE:
            continue
        scheme = SCHEMES[option]
        is_finer = scheme.kind == wanted.kind and scheme.block <= wanted.block
        if is_finer and scheme.density >= wanted.density:
            fitting.append(option)
    return min(fitting, key=lambda o: (SCHEMES[o].density, -SCHEMES[o].block), default=_DENSE)
