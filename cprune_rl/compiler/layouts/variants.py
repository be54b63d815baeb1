"""The variants a network can be compiled in, and the choice among them.

Each subgraph can be computed over NCHW maps as TVM legalises it, or over NHWC maps with packed
weights, 3x3
convolutions there by Winograd's filtering too. Which is faster depends on its shape and the device,
and where two
neighbours differ in layout a map is transposed between them: so the choice is one for the whole
network. Called by
the tuner and by deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.workload import Workload
from cprune_rl.errors import ModelError

__all__ = ["LayoutVariant", "LayoutVariants", "Transpose", "VariantChoice", "find_layout_variants"]

_SILENT = ("permute_dims", "reshape")  # what a change of layout adds or takes away


@dataclass(frozen=True)
class LayoutVariant:
    """A network in one layout.

    Attributes:
        exported: lowers it at any widths.
        network: its subgraphs, in the order that they have in every variant.
        calls: the same at the dense widths: what reads what, in which layout.
    """

    exported: ExportedNetwork
    network: Network
    calls: tuple[FusedCall, ...]

    @property
    def layout(self) -> str:
        """Of its maps."""
        return self.exported.layout


@dataclass(frozen=True)
class Transpose:
    """A map brought into another layout between two subgraphs.

    Attributes:
        source: position of the subgraph that made the map; -1 for the image.
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
        """For each subgraph the variants in which it is another task than in those before them."""
        return tuple(
            tuple(f for f, w in enumerate(tasks) if w not in tasks[:f])
            for tasks in self.workloads(self.network.dense)
        )

    @property
    def network(self) -> Network:
        """The description that tables, plans and searches speak of."""
        return self.all[0].network

    def workloads(self, plan: Plan) -> list[tuple[Workload, ...]]:
        """For each subgraph its task in each variant."""
        return list(zip(*(variant.network.workloads(plan) for variant in self.all), strict=True))

    def maps_read(self, subgraph: int, variant: int) -> list[tuple[int, str]]:
        """The maps a subgraph reads in one variant:

        `(position of the subgraph that made it, or -1, layout)`.
        """
        call = self.all[variant].calls[subgraph]
        return [
            (made if isinstance(made, int) else -1, layout)
            for made, layout in zip(call.reads, call.layouts, strict=False)
            if layout
        ]

    def layout_written(self, subgraph: int, variant: int) -> str:
        """The layout in which a subgraph writes its map;

        empty where it writes none, "NCHW" for the image, -1.
        """
        return "NCHW" if subgraph < 0 else self.all[variant].calls[subgraph].layouts[-1]

    def transposes(self, variants: Sequence[int]) -> tuple[Transpose, ...]:
        """What must be transposed where each subgraph takes the given variant."""
        needed = [
            (s, layout)
            for i, f in enumerate(variants)
            for s, layout in self.maps_read(i, f)
            if layout != self.layout_written(s, variants[s] if s >= 0 else 0)
        ]
        return tuple(Transpose(s, layout) for s, layout in dict.fromkeys(needed))

    def choose(
        self, costs: Sequence[Mapping[int, float]], transpose_s: Callable[[Transpose], float]
    ) -> VariantChoice:
        """The variants with the least sum of tasks and transposes.

        Args:
            costs: for each subgraph the seconds of each variant that may be taken.
            transpose_s: seconds of a transpose.
        """
        fastest = tuple(min(c, key=c.__getitem__) for c in costs)
        if not (needed := self.transposes(fastest)):
            return VariantChoice(fastest, ())
        chosen = self._solve(costs, transpose_s)
        return (
            VariantChoice(chosen, self.transposes(chosen))
            if chosen
            else VariantChoice(fastest, needed)
        )

    def _solve(
        self, costs: Sequence[Mapping[int, float]], transpose_s: Callable[[Transpose], float]
    ) -> tuple[int, ...] | None:
        """A mixed-integer program:

        a variable for each (subgraph, variant), one for each possible transpose.
        """
        columns = [(i, f) for i, c in enumerate(costs) for f in c]
        at = {column: position for position, column in enumerate(columns)}
        makers = {-1: ["NCHW"]} | {
            i: [self.layout_written(i, f) for f in c] for i, c in enumerate(costs)
        }
        wanted = dict.fromkeys(
            (s, layout)
            for i, f in columns
            for s, layout in self.maps_read(i, f)
            if any(made != layout for made in makers[s])
        )
        transposes = {
            Transpose(s, layout): len(columns) + k for k, (s, layout) in enumerate(wanted)
        }
        n = len(columns) + len(transposes)
        rows, low, high = [], [], []

        def constrain(entries: Mapping[int, float], lower: float, upper: float) -> None:
            row = np.zeros(n)
            for position, value in entries.items():
                row[position] = value
            rows.append(row)
            low.append(lower)
            high.append(upper)

        for i, c in enumerate(costs):
            constrain({at[i, f]: 1.0 for f in c}, 1.0, 1.0)
        for i, f in columns:
            for source, layout in self.maps_read(i, f):
                if (position := transposes.get(Transpose(source, layout))) is None:
                    continue
                others = (
                    {}
                    if source < 0
                    else {
                        at[source, g]: -1.0
                        for g in costs[source]
                        if self.layout_written(source, g) != layout
                    }
                )
                constrain(
                    {position: 1.0, at[i, f]: -1.0, **others}, 0.0 if source < 0 else -1.0, np.inf
                )
        prices = [costs[i][f] for i, f in columns] + [transpose_s(t) for t in transposes]
        scale = max(p for p in prices if np.isfinite(p))
        objective = np.array([p / scale if np.isfinite(p) else 1e3 for p in prices])
        solved = milp(
            objective,
            constraints=LinearConstraint(np.array(rows), low, high),
            integrality=np.ones(n),
            bounds=Bounds(0, 1),
        )
        if solved.x is None:
            return None
        return tuple(max(c, key=lambda f, i=i: solved.x[at[i, f]]) for i, c in enumerate(costs))  # type: ignore[misc]  # a default argument binds the loop's variable


def find_layout_variants(
    name: str,
    exported: ExportedNetwork,
    groups: Sequence[Group],
    unprunable: Sequence[tuple[str, str]] = (),
) -> LayoutVariants:
    """Describes a network in every variant that it can take.

    Args:
        name: of the model.
        exported: the network as exported.
        groups: what can be pruned.
        unprunable: layers left whole, with the reason.

    Raises:
        ModelError: the NCHW variant cannot be described (see `describe_network`).
    """
    plain, note = _describe_variant(name, exported, groups, unprunable)
    notes = [note] if note else []
    try:
        nhwc = exported.in_nhwc()
        packed, _ = _describe_variant(name, nhwc, groups, unprunable)
    except ModelError as error:
        return LayoutVariants((plain,), "; ".join([*notes, str(error)]))
    if difference := _difference(plain.calls, packed.calls):
        return LayoutVariants((plain,), "; ".join([*notes, f"NHWC is not offered: {difference}"]))
    winograd, _ = _describe_variant(name, nhwc.with_winograd(), groups, unprunable)
    variants = [plain, packed]
    if winograd.network != packed.network:
        if difference := _difference(plain.calls, winograd.calls):
            notes.append(f"the Winograd variant is not offered: {difference}")
        else:
            variants.append(winograd)
    return LayoutVariants(_with_the_same_schemes(variants), "; ".join(notes))


def _describe_variant(
    name: str,
    exported: ExportedNetwork,
    groups: Sequence[Group],
    unprunable: Sequence[tuple[str, str]],
) -> tuple[LayoutVariant, str]:
    """A variant, and why no layer of it can be pruned by a scheme where that is so."""
    note = ""
    try:
        network = describe_network(name, exported, groups, unprunable)
    except ModelError as error:
        network, note = (
            describe_network(name, exported, groups, unprunable, with_schemes=False),
            f"no layer can be pruned by a scheme: {error}",
        )
    return LayoutVariant(
        exported, network, exported.lowered(network.widths(network.dense)).calls
    ), note


def _with_the_same_schemes(variants: Sequence[LayoutVariant]) -> tuple[LayoutVariant, ...]:
    """The variants, with schemes for layers alone that have one in each."""
    common = set.intersection(*(set(variant.network.scheme_layers) for variant in variants))

    def limited(network: Network) -> Network:
        subgraphs = (
            s
            if s.block_sparse is None or s.block_sparse.layer in common
            else replace(s, block_sparse=None)
            for s in network.subgraphs
        )
        return replace(network, subgraphs=tuple(subgraphs))

    return tuple(
        variant
        if set(variant.network.scheme_layers) == common
        else replace(variant, network=limited(variant.network))
        for variant in variants
    )


def _difference(plain: Sequence[FusedCall], other: Sequence[FusedCall]) -> str:
    """Why two lowerings do not have the same subgraphs; empty where they have."""
    if len(plain) != len(other):
        return f"it has {len(other)} subgraphs, the NCHW variant {len(plain)}"
    for a, b in zip(plain, other, strict=True):
        same_operators = [o.name for o in a.operators if o.name not in _SILENT] == [
            o.name for o in b.operators if o.name not in _SILENT
        ]
        if set(a.parameters) != set(b.parameters) or not same_operators:
            return f"{b.function} fuses other operators than {a.function}"
        if [r for r in a.reads if isinstance(r, int)] != [r for r in b.reads if isinstance(r, int)]:
            return f"{b.function} reads other subgraphs than {a.function}"
    return ""
