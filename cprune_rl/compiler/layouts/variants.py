"""The variants that a network can be compiled in; `choice` chooses among them.

Each subgraph can be computed over NCHW maps as TVM legalises it, or over NHWC maps with packed
weights. In NHWC, 3x3 convolutions can be computed by Winograd's filtering too. Which is fastest
depends on a subgraph's shape and on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork, LoweredModule
from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.workload import Subgraph, Workload
from cprune_rl.errors import ModelError

__all__ = [
    "IMAGE",
    "IMAGE_LAYOUT",
    "LayoutVariant",
    "LayoutVariants",
    "Transpose",
    "VariantChoice",
    "distinct_variants",
    "find_layout_variants",
]

IMAGE = -1
"""Stands for the image, where else the position of the subgraph that made a map stands."""

IMAGE_LAYOUT = "NCHW"
"""In which the image comes."""

_LAYOUT_OPERATORS = ("permute_dims", "reshape")  # what a change of layout adds or takes away


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

    @property
    def name(self) -> str:
        """Of the variant, for messages."""
        if self.layout == "NCHW":
            return "the plain NCHW layout"
        return "packed NHWC with Winograd" if self.exported.uses_winograd else "packed NHWC"

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
