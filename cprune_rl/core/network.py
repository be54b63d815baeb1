"""What a network is to a search: groups, subgraphs, workloads and plans.

Everything here is plain values: a recorded problem, an environment and a policy need no compiler
and no torch to know
which tasks a plan has. `compiler.lower` makes a `Network`; everything downstream reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

from cprune_rl.core.scheme import PATTERN_KERNEL, Scheme
from cprune_rl.errors import PlanError

__all__ = [
    "BlockSparse",
    "Extent",
    "Group",
    "Network",
    "OperatorKind",
    "Plan",
    "Subgraph",
    "Template",
    "Workload",
]


_KERNELS = "|kernels"  # marks tasks whose layer keeps whole kernels
_NO_SCHEMES: dict[int, Scheme] = {}
_MOST_REMEMBERED = 4096  # plans whose schemes are known to fit: a search asks for few of them again
_BLOCK = "|block="  # in the key and the family of a task whose layer is pruned by a scheme


@dataclass(frozen=True)
class Extent:
    """The length of an axis as a linear function of the widths of groups.

    Attributes:
        constant: the part no group changes.
        terms: `(group name, multiplier)`; a flattened 4x4 map of group g is `(("g", 16),)`.
    """

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int]) -> int:
        """The length where each group has the given width."""
        return self.constant + sum(multiplier * widths[name] for name, multiplier in self.terms)


@dataclass(frozen=True)
class OperatorKind:
    """What an observation says about the operator that dominates a task.

    Attributes:
        name: "conv2d", "depthwise", "dense" or "other".
        kernel: height of the kernel, 1 where there is none.
        stride: vertical stride, 1 where there is none.
        height: height of the output map, 1 for a vector.
    """

    name: str
    kernel: int = 1
    stride: int = 1
    height: int = 1


@dataclass(frozen=True)
class Template:
    """A fused subgraph with the lengths of its channel axes left open.

    Attributes:
        text: operators, attributes and shapes, with `{0}`, `{1}`... for the open lengths.
        family: the same without any shape: programs carry over within a family.
        operator: the dominating operator.
        macs: multiply-accumulates are `macs * cost_in * cost_out` (see `Subgraph`).
    """

    text: str
    family: str
    operator: OperatorKind
    macs: int


@dataclass(frozen=True)
class BlockSparse:
    """What a fused subgraph is where its layer is pruned by a scheme (see `schemes`).

    Attributes:
        layer: that a plan names.
        template: the operators, with open lengths as in the dense one; block and kept entries are
            added to its text.
        entries: of the kernel, for each channel that is read.
        of_kernels: the operators where the scheme keeps whole kernels, if they are computed in
            another way then.
    """

    layer: str
    template: Template
    entries: int
    of_kernels: Template | None = None


@dataclass(frozen=True)
class Workload:
    """One task: a template at given lengths. Equal workloads share one program.

    Attributes:
        key: canonical text; equal exactly where the compiler would build the same function.
        family: key of the pool its programs come from.
        channels_in: channels read by the dominating operator.
        channels_out: channels written.
        macs: multiply-accumulates of one run.
    """

    key: str
    family: str
    channels_in: int
    channels_out: int
    macs: int
    operator: OperatorKind = field(compare=False)

    @property
    def is_block_sparse(self) -> bool:
        """Whether its layer is pruned by a scheme."""
        return _BLOCK in self.family

    @property
    def block(self) -> int:
        """Output channels to a block of a layer that is pruned by a scheme; 1 of any other."""
        return int(self.family.rpartition(_BLOCK)[2]) if self.is_block_sparse else 1


@dataclass(frozen=True)
class Group:
    """Channels that are pruned together.

    Attributes:
        name: the layer that the dependency analysis found it at.
        channels: width in the dense network; where channels only go in units, as the groups of a
            grouped convolution do, the number of units.
        minimum: width below which it is not pruned.
        layers: layers that write these channels.
    """

    name: str
    channels: int
    minimum: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Subgraph:
    """One occurrence of a task in the network: a layer with its fused epilogue.

    Attributes:
        name: the layer, or the operator where the subgraph has no weight.
        layers: names of the layers whose weights it reads.
        template: the operators.
        extents: lengths for the template's open axes.
        channels_in: channels read by the dominating operator.
        channels_out: channels written.
        writes: groups whose channels this subgraph's own layers produce.
        block_sparse: what it is with its layer pruned by a scheme; None where that cannot be.
    """

    name: str
    layers: tuple[str, ...]
    template: Template
    extents: tuple[Extent, ...]
    channels_in: Extent
    channels_out: Extent
    writes: tuple[str, ...]
    block_sparse: BlockSparse | None = None

    def workload(self, widths: Mapping[str, int], scheme: Scheme | None = None) -> Workload:
        """The task this subgraph is at the given group widths, its layer dense or pruned by a
        scheme.
        """
        if scheme is not None and self.block_sparse is not None:
            return self._block_sparse_workload(self.block_sparse, widths, scheme)
        n_in, n_out = self.channels_in.at(widths), self.channels_out.at(widths)
        depth = 1 if self.template.operator.name in ("depthwise", "other") else n_in
        key = self.template.text.format(*(e.at(widths) for e in self.extents))
        return Workload(
            key,
            self.template.family,
            n_in,
            n_out,
            self.template.macs * depth * n_out,
            self.template.operator,
        )

    def _block_sparse_workload(
        self, block_sparse: BlockSparse, widths: Mapping[str, int], scheme: Scheme
    ) -> Workload:
        n_in, n_out = self.channels_in.at(widths), self.channels_out.at(widths)
        template = (
            block_sparse.of_kernels
            if scheme.kind == "kernel" and block_sparse.of_kernels is not None
            else block_sparse.template
        )
        block, n_kept = min(scheme.block, n_out), scheme.n_kept(block_sparse.entries * n_in)
        # whole kernels may be computed in other ways than blocks of as many entries
        mark = f"{_KERNELS if scheme.kind == 'kernel' else ''}{_BLOCK}{block}"
        key = f"{template.text.format(*(e.at(widths) for e in self.extents))}{mark}|kept={n_kept}"
        return Workload(
            key,
            f"{template.family}{mark}",
            n_in,
            n_out,
            template.macs // block_sparse.entries * n_kept * n_out,
            template.operator,
        )


@dataclass(frozen=True)
class Plan:
    """What is kept: the whole state of an episode, with the network.

    Attributes:
        widths: channels kept, in the order of `Network.groups`.
        schemes: scheme of each layer that is not dense, as `(layer, scheme)`; sorted, so that equal
            plans are equal.
    """

    widths: tuple[int, ...]
    schemes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.schemes:
            object.__setattr__(self, "schemes", tuple(sorted(self.schemes)))

    def with_width(self, group: int, width: int) -> Plan:
        """The same with another width of the group at a position."""
        return replace(self, widths=(*self.widths[:group], width, *self.widths[group + 1 :]))


@dataclass(frozen=True)
class Network:
    """A lowered network: what a search may change and what that does to the tasks.

    Attributes:
        name: the model's name.
        groups: what can be pruned.
        subgraphs: every occurrence of every task, in the order of execution.
        unprunable: layers left whole, with the reason.
    """

    name: str
    groups: tuple[Group, ...]
    subgraphs: tuple[Subgraph, ...]
    unprunable: tuple[tuple[str, str], ...] = ()

    @cached_property
    def group_index(self) -> dict[str, int]:
        """Position of each group by name."""
        return {g.name: i for i, g in enumerate(self.groups)}

    @cached_property
    def dense(self) -> Plan:
        """The plan that keeps everything."""
        return Plan(tuple(g.channels for g in self.groups))

    def widths(self, plan: Plan) -> dict[str, int]:
        """Width of each group by name.

        Raises:
            PlanError: the plan has another number of groups, or a width outside its group.
        """
        if len(plan.widths) != len(self.groups):
            raise PlanError(
                f"the plan has {len(plan.widths)} groups, {self.name} has {len(self.groups)}"
            )
        for group, width in zip(self.groups, plan.widths, strict=True):
            if not 1 <= width <= group.channels:
                raise PlanError(
                    f"group {group.name!r} of {self.name} has 1 to {group.channels} channels, the plan keeps {width}"
                )
        return {g.name: w for g, w in zip(self.groups, plan.widths, strict=True)}

    @cached_property
    def touched_groups(self) -> tuple[tuple[int, ...], ...]:
        """For each subgraph the positions of the groups that its shape depends on."""
        touched = [
            {name for e in (*s.extents, s.channels_in, s.channels_out) for name, _ in e.terms}
            for s in self.subgraphs
        ]
        return tuple(tuple(sorted(self.group_index[name] for name in names)) for names in touched)

    @cached_property
    def written_groups(self) -> tuple[tuple[int, ...], ...]:
        """For each subgraph the positions of the groups that its layers produce."""
        return tuple(
            tuple(sorted(self.group_index[name] for name in s.writes)) for s in self.subgraphs
        )

    @cached_property
    def units(self) -> tuple[Mapping[int, int], ...]:
        """For each subgraph, by position of a group, how many channels it writes for each channel
        of the group.
        """
        return tuple(
            {self.group_index[name]: multiplier for name, multiplier in s.channels_out.terms}
            for s in self.subgraphs
        )

    @cached_property
    def _known_shaped(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        return {}

    def shaped_by(self, groups: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the subgraphs whose shape depends on any of some groups, ascending;

        remembered.
        """
        known = self._known_shaped
        if groups not in known:
            known[groups] = tuple(
                s
                for s, touched in enumerate(self.touched_groups)
                if not set(groups).isdisjoint(touched)
            )
        return known[groups]

    @cached_property
    def scheme_layers(self) -> dict[str, int]:
        """The layers that a scheme may prune, with the positions of their subgraphs."""
        return {
            s.block_sparse.layer: at
            for at, s in enumerate(self.subgraphs)
            if s.block_sparse is not None
        }

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """Position of each of `scheme_layers` by name."""
        return {layer: at for at, layer in enumerate(self.scheme_layers)}

    @cached_property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels that each of `scheme_layers` writes in the dense network."""
        dense = self.widths(self.dense)
        return tuple(
            self.subgraphs[at].channels_out.at(dense) for at in self.scheme_layers.values()
        )

    def schemes(self, plan: Plan) -> dict[int, Scheme]:
        """By position of a subgraph the scheme that its layer is pruned by.

        Raises:
            PlanError: the plan prunes a layer by a scheme that cannot be pruned so, or its text is
                no scheme.
        """
        known = self._known_schemes.get(plan.schemes)
        if known is None:
            if len(self._known_schemes) >= _MOST_REMEMBERED:
                self._known_schemes.clear()
            known = self._known_schemes[plan.schemes] = self._checked_schemes(plan)
        return known

    @cached_property
    def _known_schemes(self) -> dict[tuple[tuple[str, str], ...], dict[int, Scheme]]:
        return {}

    def _checked_schemes(self, plan: Plan) -> dict[int, Scheme]:
        for layer, _ in plan.schemes:
            if layer not in self.scheme_layers:
                raise PlanError(
                    f"layer {layer!r} of {self.name} cannot be pruned by a scheme: {', '.join(self.scheme_layers) or 'none'} can"
                )
        found = {self.scheme_layers[layer]: Scheme.parse(text) for layer, text in plan.schemes}
        for at, scheme in found.items():
            if scheme.kind != "block" and not self.has_3x3_kernels(at):
                raise PlanError(
                    f"layer {self.subgraphs[at].name!r} of {self.name} has no 3x3 kernels: {scheme} cannot prune it"
                )
        return found

    def has_3x3_kernels(self, subgraph: int) -> bool:
        """Whether a subgraph's layer has 3x3 kernels, of which a scheme can keep whole ones or
        patterns.
        """
        found = self.subgraphs[subgraph]
        return (
            found.block_sparse is not None
            and found.block_sparse.entries == PATTERN_KERNEL
            and found.template.operator.kernel == 3
        )

    def schemes_by_layer(self, plan: Plan) -> dict[str, Scheme]:
        """The schemes of a plan by the names of their layers; errors as of `schemes`."""
        self.schemes(plan)
        return {layer: Scheme.parse(text) for layer, text in plan.schemes}

    @cached_property
    def _known_workloads(
        self,
    ) -> tuple[tuple[Callable[[tuple[int, ...]], object], dict[object, Workload]], ...]:
        """For each subgraph, what picks the widths that its shape depends on, and the tasks met so
        far by those widths and its scheme.
        """
        return tuple(
            (itemgetter(*groups) if groups else _nothing, {}) for groups in self.touched_groups
        )

    def workloads_of(self, subgraphs: Iterable[int], plan: Plan) -> list[Workload]:
        """The tasks that some subgraphs are by a plan;

        remembered, because searches ask again and again.
        """
        remembered, found, widths = self._known_workloads, [], plan.widths
        schemes = self.schemes(plan) if plan.schemes else _NO_SCHEMES
        for subgraph in subgraphs:
            pick, known = remembered[subgraph]
            scheme = schemes.get(subgraph)
            key = pick(widths) if scheme is None else (pick(widths), scheme)
            workload = known.get(key)
            if workload is None:
                workload = known[key] = self.subgraphs[subgraph].workload(self.widths(plan), scheme)
            found.append(workload)
        return found

    def workload(self, subgraph: int, plan: Plan) -> Workload:
        """The task that one subgraph is by a plan."""
        return self.workloads_of((subgraph,), plan)[0]

    def workloads(self, plan: Plan) -> list[Workload]:
        """The task of each subgraph, in the order of `subgraphs`."""
        return self.workloads_of(range(len(self.subgraphs)), plan)

    def macs(self, plan: Plan) -> int:
        """Multiply-accumulates of the whole network."""
        return sum(w.macs for w in self.workloads(plan))

    def uniform(self, ratio: float) -> Plan:
        """The plan that keeps the same share of every group, no less than its minimum."""
        return Plan(tuple(max(g.minimum, round(g.channels * ratio)) for g in self.groups))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal network."""
        block_sparse = [s.block_sparse for s in self.subgraphs if s.block_sparse]
        of_kernels = [b.of_kernels for b in block_sparse if b.of_kernels]
        templates = list(
            dict.fromkeys(
                [
                    *(s.template for s in self.subgraphs),
                    *(b.template for b in block_sparse),
                    *of_kernels,
                ]
            )
        )
        return {
            "name": self.name,
            "groups": [
                {
                    "name": g.name,
                    "channels": g.channels,
                    "minimum": g.minimum,
                    "layers": list(g.layers),
                }
                for g in self.groups
            ],
            "templates": [
                {"text": t.text, "family": t.family, "operator": vars(t.operator), "macs": t.macs}
                for t in templates
            ],
            "subgraphs": [
                {
                    "name": s.name,
                    "layers": list(s.layers),
                    "template": templates.index(s.template),
                    "extents": [_extent_to_json(e) for e in s.extents],
                    "channels_in": _extent_to_json(s.channels_in),
                    "channels_out": _extent_to_json(s.channels_out),
                    "writes": list(s.writes),
                    **(
                        {"blocked": _block_sparse_to_json(s.block_sparse, templates)}
                        if s.block_sparse
                        else {}
                    ),
                }
                for s in self.subgraphs
            ],
            "unprunable": [list(u) for u in self.unprunable],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Network:
        """The inverse of `to_json`."""
        templates = [
            Template(t["text"], t["family"], OperatorKind(**t["operator"]), t["macs"])
            for t in value["templates"]
        ]
        return Network(
            value["name"],
            tuple(
                Group(g["name"], g["channels"], g["minimum"], tuple(g["layers"]))
                for g in value["groups"]
            ),
            tuple(
                Subgraph(
                    s["name"],
                    tuple(s["layers"]),
                    templates[s["template"]],
                    tuple(_extent_from_json(e) for e in s["extents"]),
                    _extent_from_json(s["channels_in"]),
                    _extent_from_json(s["channels_out"]),
                    tuple(s["writes"]),
                    _block_sparse_from_json(b, templates) if (b := s.get("blocked")) else None,
                )
                for s in value["subgraphs"]
            ),
            tuple((u[0], u[1]) for u in value["unprunable"]),
        )


def _extent_to_json(extent: Extent) -> list[Any]:
    return [extent.constant, [list(t) for t in extent.terms]]


def _block_sparse_to_json(
    block_sparse: BlockSparse, templates: Sequence[Template]
) -> dict[str, Any]:
    of_kernels = (
        {}
        if block_sparse.of_kernels is None
        else {"of_kernels": templates.index(block_sparse.of_kernels)}
    )
    return {
        "layer": block_sparse.layer,
        "template": templates.index(block_sparse.template),
        "entries": block_sparse.entries,
        **of_kernels,
    }


def _block_sparse_from_json(value: Mapping[str, Any], templates: Sequence[Template]) -> BlockSparse:
    of_kernels = value.get("of_kernels")
    return BlockSparse(
        value["layer"],
        templates[value["template"]],
        value["entries"],
        None if of_kernels is None else templates[of_kernels],
    )


def _nothing(_: tuple[int, ...]) -> None:
    """Picks no width: the subgraph has one shape."""


def _extent_from_json(value: Sequence[Any]) -> Extent:
    return Extent(value[0], tuple((name, multiplier) for name, multiplier in value[1]))
