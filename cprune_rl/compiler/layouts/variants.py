"""The variants that a network can be compiled in; `choice` chooses among them.

Each subgraph can be computed over NCHW maps as TVM legalises it, or over NHWC maps with packed
weights. In NHWC, 3x3 convolutions can be computed by Winograd's filtering too. Which is fastest
depends on a subgraph's shape and on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork, LoweredModule
from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.compiler.layouts.matching import match_calls, renumbered_maps
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.workload import Subgraph, Workload
from cprune_rl.errors import ModelError

__all__ = [
    "IMAGE",
    "IMAGE_LAYOUT",
    "LayoutVariant",
    "LayoutVariants",
    "PlacedCall",
    "Transpose",
    "VariantChoice",
    "distinct_variants",
    "find_layout_variants",
]

IMAGE = -1
"""Stands for the image, where else the position of the subgraph that made a map stands."""

IMAGE_LAYOUT = "NCHW"
"""In which the image comes."""


@dataclass(frozen=True)
class PlacedCall:
    """A subgraph's call in one variant.

    Attributes:
        lowered: the module that it is of.
        call: whose `reads` are positions of subgraphs.
    """

    lowered: LoweredModule
    call: FusedCall


@dataclass(frozen=True)
class LayoutVariant:
    """A network in one layout.

    Attributes:
        exported: lowers it at any widths.
        network: its subgraphs, in the order that they have in every variant.
        plain: the variant in NCHW, whose subgraphs stand where this one has none; None where this
            is that variant.
        positions: for each subgraph the position of its call in this layout; None where it is the
            plain variant's.
        maps: position of the subgraph that makes the same map, by the position of a call.
    """

    exported: ExportedNetwork
    network: Network
    plain: LayoutVariant | None = None
    positions: tuple[int | None, ...] = ()
    maps: Mapping[int, int] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        """Of its maps: "NCHW" or "NHWC"."""
        return self.exported.layout

    @property
    def name(self) -> str:
        """Of the variant, for messages."""
        if self.layout == "NCHW":
            return "the plain NCHW layout"
        return "packed NHWC with Winograd" if self.exported.uses_winograd else "packed NHWC"

    @property
    def n_offered(self) -> int:
        """Subgraphs that have a call in this layout."""
        return sum(position is not None for position in self.positions)

    @cached_property
    def calls(self) -> tuple[FusedCall, ...]:
        """The subgraphs at the dense widths: what reads what, in which layout."""
        return tuple(placed.call for placed in self.placed(self.network.dense))

    def placed(self, plan: Plan) -> tuple[PlacedCall, ...]:
        """Return the call of each subgraph at a plan."""
        lowered = self.lowered(plan)
        if self.plain is None:
            return tuple(PlacedCall(lowered, call) for call in lowered.calls)
        instead = self.plain.placed(plan)
        placed = []
        for at, position in enumerate(self.positions):
            if position is None:
                placed.append(instead[at])
                continue
            call = lowered.calls[position]
            reads = tuple(self.maps[r] if isinstance(r, int) else r for r in call.reads)
            placed.append(PlacedCall(lowered, replace(call, reads=reads)))
        return tuple(placed)

    def lowered(self, plan: Plan) -> LoweredModule:
        """Lower the network at a plan, in this layout as far as it goes."""
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
        left_out: which variants were left out because they computed something else than torch;
            empty where none was.
    """

    all: tuple[LayoutVariant, ...]
    note: str = ""
    left_out: str = ""

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
        written.append(IMAGE_LAYOUT)  # read at `IMAGE`, which is the last position
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

    def only(self, positions: Sequence[int], left_out: str = "") -> LayoutVariants:
        """Return the network in some of its variants.

        Args:
            positions: of those that stay, in order; the first stays always.
            left_out: why the others do not.
        """
        kept = tuple(self.all[position] for position in positions)
        reasons = [text for text in (self.left_out, left_out) if text]
        return LayoutVariants(kept, self.note, "; ".join(reasons))


def distinct_variants(tasks: Sequence[Workload]) -> tuple[int, ...]:
    """Return the variants in which a subgraph is another task than in those before them."""
    return tuple(variant for variant, task in enumerate(tasks) if task not in tasks[:variant])


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
    winograd, _ = describe(nhwc.exported.with_winograd())
    for other, before in ((nhwc, nchw), (winograd, nhwc)):
        if other.network == before.network:
            continue
        placed = _beside(nchw, other)
        if not placed.n_offered:
            notes.append(f"{placed.name} is not offered: it has other subgraphs than NCHW")
            continue
        variants.append(placed)
        if placed.n_offered < len(placed.positions):
            notes.append(
                f"{placed.name} is offered for {placed.n_offered} of {len(placed.positions)} "
                "subgraphs, the others are fused otherwise"
            )
    return LayoutVariants(_with_common_schemes(variants), "; ".join(notes))


def _beside(nchw: LayoutVariant, other: LayoutVariant) -> LayoutVariant:
    """Put NCHW's subgraphs where another layout has none that is the same."""
    calls = other.calls
    positions = match_calls(nchw.calls, calls)
    subgraphs = [
        plain if position is None else other.network.subgraphs[position]
        for plain, position in zip(nchw.network.subgraphs, positions, strict=True)
    ]
    return LayoutVariant(
        other.exported,
        replace(other.network, subgraphs=tuple(subgraphs)),
        plain=nchw,
        positions=positions,
        maps=renumbered_maps(nchw.calls, calls),
    )


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
