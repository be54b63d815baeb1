"""The variants that a network can be compiled in, and the choice among them.

Each subgraph can be computed over NCHW maps as TVM legalises it, or over NHWC maps with packed
weights. In NHWC, 3x3 convolutions can be computed by Winograd's filtering too. Which is fastest
depends on a subgraph's shape and on the device. Where two neighbours differ in layout a map is
transposed between them, so the choice is one for the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork, LoweredModule
from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.workload import Subgraph, Workload
from cprune_rl.errors import ModelError

__all__ = [
    "IMAGE",
    "LayoutVariant",
    "LayoutVariants",
    "Transpose",
    "VariantChoice",
    "distinct_variants",
    "find_layout_variants",
]

IMAGE = -1
"""Stands for the image, where else the position of the subgraph that made a map stands."""

_IMAGE_LAYOUT = "NCHW"
_LAYOUT_OPERATORS = ("permute_dims", "reshape")  # what a change of layout adds or takes away
_NEVER = 1e3  # price of a variant that does not run, in those of the costliest task


@dataclass(frozen=True)
class LayoutVariant:
    """A network in one layout.

    Attributes:
        exported: lowers it at any widths.
        network: its subgraphs, in the order that they have in every variant.
    """

    exported: ExportedNetwork
    network: Network

    @property
    def layout(self) -> str:
        """Of its maps: "NCHW" or "NHWC"."""
        return self.exported.layout

    @cached_property
    def calls(self) -> tuple[FusedCall, ...]:
        """The subgraphs at the dense widths: what reads what, in which layout."""
        return self.lowered(self.network.dense).calls

    def lowered(self, plan: Plan) -> LoweredModule:
        """Lower the network at a plan."""
        network = self.network
        return self.exported.lowered(network.widths(plan), network.schemes_by_layer(plan))


@dataclass(frozen=True)
class Transpose:
    """A map brought into another layout between two subgraphs.

    Attributes:
        source: position of the subgraph that made the map, or `IMAGE`.
        layout: what it is brought into.
    """

    source: int
    layout: str


@dataclass(frozen=True)
class VariantChoice:
    """A variant for each subgraph.

    Attributes:
        variants: position of the variant in `LayoutVariants.all`, for each subgraph.
        transposes: needed between them.
    """

    variants: tuple[int, ...]
    transposes: tuple[Transpose, ...]


@dataclass(frozen=True)
class LayoutVariants:
    """A network in every variant that it can take.

    Attributes:
        all: the variants; the first is the one in NCHW, whose description every search reads.
        note: why a variant is missing; empty where none is.
    """

    all: tuple[LayoutVariant, ...]
    note: str = ""

    @cached_property
    def distinct(self) -> tuple[tuple[int, ...], ...]:
        """For each subgraph, the variants in which it is another task than in those before."""
        return tuple(distinct_variants(tasks) for tasks in self.workloads(self.network.dense))

    @property
    def network(self) -> Network:
        """The description that tables, plans and searches speak of."""
        return self.all[0].network

    def workloads(self, plan: Plan) -> list[tuple[Workload, ...]]:
        """Return the task of each subgraph in each variant."""
        return list(zip(*(variant.network.workloads(plan) for variant in self.all), strict=True))

    def maps_read(self, subgraph: int, variant: int) -> list[Transpose]:
        """Return the maps that a subgraph reads in one variant, as transposes into its layout."""
        call = self.all[variant].calls[subgraph]
        return [
            Transpose(made if isinstance(made, int) else IMAGE, layout)
            for made, layout in zip(call.reads, call.layouts, strict=False)
            if layout
        ]

    def layout_written(self, subgraph: int, variant: int) -> str:
        """Return the layout in which a subgraph writes its map; empty where it writes none."""
        return self.all[variant].calls[subgraph].layouts[-1]

    def choice(self, variants: Sequence[int]) -> VariantChoice:
        """Return the choice of a variant for each subgraph, with the transposes that it needs."""
        written = [self.layout_written(*pair) for pair in enumerate(variants)]
        written.append(_IMAGE_LAYOUT)  # read at `IMAGE`, which is the last position
        needed = [
            transpose
            for pair in enumerate(variants)
            for transpose in self.maps_read(*pair)
            if transpose.layout != written[transpose.source]
        ]
        return VariantChoice(tuple(variants), tuple(dict.fromkeys(needed)))

    def uniform_choice(self, variant: int) -> VariantChoice:
        """Return the choice of one variant for all subgraphs."""
        return self.choice((variant,) * len(self.network.subgraphs))

    def choose(
        self, costs: Sequence[Mapping[int, float]], transpose_s: Callable[[Transpose], float]
    ) -> VariantChoice:
        """Choose the variants with the least sum of tasks and transposes.

        Args:
            costs: for each subgraph the seconds of each variant that may be taken.
            transpose_s: seconds of a transpose.
        """
        fastest = self.choice([min(c, key=c.__getitem__) for c in costs])
        if not fastest.transposes:
            return fastest
        variants = _solve(self, costs, transpose_s)
        return fastest if variants is None else self.choice(variants)


def distinct_variants(tasks: Sequence[Workload]) -> tuple[int, ...]:
    """Return the variants in which a subgraph is another task than in those before them."""
    return tuple(variant for variant, task in enumerate(tasks) if task not in tasks[:variant])


def _solve(
    variants: LayoutVariants,
    costs: Sequence[Mapping[int, float]],
    transpose_s: Callable[[Transpose], float],
) -> tuple[int, ...] | None:
    """Choose a variant for each subgraph by a mixed-integer program.

    It has a variable for each subgraph and variant, then one for each possible transpose.

    Returns:
        None where the solver finds no choice.
    """
    pairs = [(subgraph, variant) for subgraph, c in enumerate(costs) for variant in c]
    columns = {pair: column for column, pair in enumerate(pairs)}
    read = dict.fromkeys(transpose for pair in pairs for transpose in variants.maps_read(*pair))
    writers = {transpose: _other_writers(variants, costs, transpose) for transpose in read}
    possible = [transpose for transpose in read if writers[transpose] is not None]
    positions = {transpose: column for column, transpose in enumerate(possible, start=len(pairs))}
    prices = [costs[subgraph][variant] for subgraph, variant in pairs]
    prices += [transpose_s(transpose) for transpose in possible]

    def constraint(plus: list[int], minus: list[int], low: float, high: float) -> LinearConstraint:
        weights = np.zeros(len(prices))
        weights[plus] = 1.0
        weights[minus] = -1.0
        return LinearConstraint(weights, low, high)

    constraints = []
    for subgraph, c in enumerate(costs):
        taken = [columns[subgraph, variant] for variant in c]
        constraints.append(constraint(taken, [], low=1.0, high=1.0))
    for pair, reader in columns.items():
        for transpose in variants.maps_read(*pair):
            if transpose not in positions:
                continue
            # Needed where the reader is taken and the map's source writes another layout.
            others = [columns[writer] for writer in writers[transpose] or ()]
            low = 0.0 if transpose.source == IMAGE else -1.0
            needed = constraint([positions[transpose]], [reader, *others], low=low, high=np.inf)
            constraints.append(needed)
    solved = milp(
        _objective(prices),
        constraints=constraints,
        integrality=np.ones(len(prices)),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return None
    chosen = []
    for subgraph, c in enumerate(costs):
        solution = {variant: solved.x[columns[subgraph, variant]] for variant in c}
        chosen.append(max(solution, key=solution.__getitem__))
    return tuple(chosen)


def _other_writers(
    variants: LayoutVariants, costs: Sequence[Mapping[int, float]], transpose: Transpose
) -> list[tuple[int, int]] | None:
    """Return the subgraph and variant of each that writes the map in another layout.

    Returns:
        None where the map is always in the wanted layout, and no transpose is needed.
    """
    source = transpose.source
    if source == IMAGE:
        return None if transpose.layout == _IMAGE_LAYOUT else []
    others = [
        (source, variant)
        for variant in costs[source]
        if variants.layout_written(source, variant) != transpose.layout
    ]
    return others or None


def _objective(prices: Sequence[float]) -> NDArray[np.float64]:
    """Scale prices by the highest; a variant that does not run is dearer than any."""
    seconds = np.array(prices)
    is_finite = np.isfinite(seconds)
    return np.where(is_finite, seconds / seconds[is_finite].max(), _NEVER)


def find_layout_variants(
    name: str,
    exported: ExportedNetwork,
    groups: Sequence[Group],
    unprunable: Sequence[tuple[str, str]] = (),
) -> LayoutVariants:
    """Describe a network in every variant that it can take.

    Args:
        name: of the model.
        exported: the network as exported.
        groups: what can be pruned.
        unprunable: layers left whole, with the reason.

    Raises:
        ModelError: the network cannot be described in NCHW.
    """

    def describe(exported: ExportedNetwork) -> tuple[LayoutVariant, str]:
        """Return the variant, and why no layer can be pruned by a scheme where that is so."""
        try:
            network = describe_network(name, exported, groups, unprunable)
        except ModelError as error:
            network = describe_network(name, exported, groups, unprunable, with_schemes=False)
            return LayoutVariant(exported, network), f"no layer can be pruned by a scheme: {error}"
        return LayoutVariant(exported, network), ""

    nchw, note = describe(exported)
    notes = [note] if note else []
    variants = [nchw]
    try:
        nhwc, _ = describe(exported.in_nhwc())
    except ModelError as error:
        notes.append(str(error))
        return LayoutVariants((nchw,), "; ".join(notes))
    if difference := _difference(nchw.calls, nhwc.calls):
        notes.append(f"NHWC is not offered: {difference}")
        return LayoutVariants((nchw,), "; ".join(notes))
    variants.append(nhwc)
    winograd, _ = describe(nhwc.exported.with_winograd())
    if winograd.network != nhwc.network:
        if difference := _difference(nchw.calls, winograd.calls):
            notes.append(f"Winograd's filtering is not offered: {difference}")
        else:
            variants.append(winograd)
    return LayoutVariants(_with_common_schemes(variants), "; ".join(notes))


def _with_common_schemes(variants: Sequence[LayoutVariant]) -> tuple[LayoutVariant, ...]:
    """Allow schemes only for the layers that can be pruned by one in each variant."""
    common = set.intersection(*(set(variant.network.scheme_layers) for variant in variants))

    def limited(subgraph: Subgraph) -> Subgraph:
        block_sparse = subgraph.block_sparse
        if block_sparse is None or block_sparse.layer in common:
            return subgraph
        return replace(subgraph, block_sparse=None)

    result = []
    for variant in variants:
        subgraphs = tuple(limited(subgraph) for subgraph in variant.network.subgraphs)
        network = replace(variant.network, subgraphs=subgraphs)
        result.append(replace(variant, network=network))
    return tuple(result)


def _difference(calls: Sequence[FusedCall], others: Sequence[FusedCall]) -> str:
    """Tell why two lowerings do not have the same subgraphs; empty where they have."""
    if len(calls) != len(others):
        return f"it has {len(others)} subgraphs, the NCHW variant {len(calls)}"
    for call, other in zip(calls, others, strict=True):
        same_weights = set(call.parameters) == set(other.parameters)
        if not same_weights or _computing(call) != _computing(other):
            return f"{other.function} fuses other operators than {call.function}"
        if _subgraphs_read(call) != _subgraphs_read(other):
            return f"{other.function} reads other subgraphs than {call.function}"
    return ""


def _computing(call: FusedCall) -> list[str]:
    """Return the operators of a call that a change of layout leaves."""
    return [o.name for o in call.operators if o.name not in _LAYOUT_OPERATORS]


def _subgraphs_read(call: FusedCall) -> list[int]:
    return [read for read in call.reads if isinstance(read, int)]
