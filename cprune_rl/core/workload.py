"""Tasks: what the compiler builds and times, and the fused subgraphs that they come from.

Plain values: no compiler and no torch is needed to know which tasks a plan has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cprune_rl.core.scheme import Scheme

__all__ = [
    "BlockSparse",
    "Extent",
    "OperatorKind",
    "Subgraph",
    "Template",
    "Workload",
    "WrittenChannels",
]

WrittenChannels = Mapping[str, tuple[tuple[str, int] | None, ...]]
"""For each layer by name, at each of its outputs the group and its channel; None where none is.

A plan keeps a prefix of each group's channels here, whichever they are in the network.
"""

# Parts of the key and the family of a task whose layer is pruned by a scheme.
_BLOCK = "|block="
_KERNELS = "|kernels"  # it keeps whole kernels


@dataclass(frozen=True)
class Extent:
    """The length of an axis as a linear function of the widths of groups.

    Attributes:
        constant: the part that no group changes.
        terms: `(group name, multiplier)`; a flattened 4x4 map of group g is `(("g", 16),)`.
    """

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int]) -> int:
        """The length where each group has the given width."""
        return self.constant + sum(multiplier * widths[name] for name, multiplier in self.terms)


@dataclass(frozen=True, kw_only=True)
class OperatorKind:
    """The operator that dominates a task, as observations describe it.

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


@dataclass(frozen=True, kw_only=True)
class Template:
    """A fused subgraph with the lengths of its channel axes left open.

    Attributes:
        text: operators, attributes and shapes, with `{0}`, `{1}`... for the open lengths.
        family: the same without any shape; schedules transfer within a family.
        operator: the dominating operator.
        macs: multiply-accumulates are `macs` times the channels written, and times those read
            unless the operator is depthwise or "other".
    """

    text: str
    family: str
    operator: OperatorKind
    macs: int

    def key(self, extents: tuple[Extent, ...], widths: Mapping[str, int]) -> str:
        """The text with its open lengths filled in."""
        return self.text.format(*(extent.at(widths) for extent in extents))


@dataclass(frozen=True, kw_only=True)
class BlockSparse:
    """What a fused subgraph is once a scheme prunes its layer.

    Attributes:
        layer: that a plan names.
        template: the operators, with open lengths as in the dense template. The block and the kept
            entries are added to its text.
        entries: of the kernel, for each channel that is read.
        of_kernels: the operators where the scheme keeps whole kernels, if they are computed in
            another way then.
    """

    layer: str
    template: Template
    entries: int
    of_kernels: Template | None = None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One task: a template at given lengths. Equal workloads share one schedule.

    Attributes:
        key: canonical text; equal exactly where the compiler would build the same function.
        family: key of the pool that its schedules come from.
        channels_in: channels read by the dominating operator.
        channels_out: channels written.
        macs: multiply-accumulates of one run.
        operator: the dominating operator.
    """

    key: str
    family: str
    channels_in: int
    channels_out: int
    macs: int
    operator: OperatorKind = field(compare=False)

    @property
    def is_block_sparse(self) -> bool:
        """Whether a scheme prunes its layer."""
        return _BLOCK in self.family

    @property
    def block(self) -> int:
        """Output channels to a block of a layer that a scheme prunes; 1 of any other."""
        return int(self.family.rpartition(_BLOCK)[2]) if self.is_block_sparse else 1


@dataclass(frozen=True, kw_only=True)
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
        block_sparse: what it is once a scheme prunes its layer; None where that cannot be.
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
        """The task that this subgraph is at the given group widths.

        Args:
            widths: by the name of a group.
            scheme: that prunes its layer; None for a dense one.
        """
        if scheme is not None and self.block_sparse is not None:
            return self._block_sparse_workload(self.block_sparse, widths, scheme)
        template = self.template
        n_in = self.channels_in.at(widths)
        n_out = self.channels_out.at(widths)
        depth = 1 if template.operator.name in ("depthwise", "other") else n_in
        return Workload(
            key=template.key(self.extents, widths),
            family=template.family,
            channels_in=n_in,
            channels_out=n_out,
            macs=template.macs * depth * n_out,
            operator=template.operator,
        )

    def _block_sparse_workload(
        self, block_sparse: BlockSparse, widths: Mapping[str, int], scheme: Scheme
    ) -> Workload:
        n_in = self.channels_in.at(widths)
        n_out = self.channels_out.at(widths)
        template = block_sparse.template
        mark = f"{_BLOCK}{min(scheme.block, n_out)}"
        if scheme.kind == "kernel":
            # Whole kernels may be computed in other ways than blocks of as many entries.
            template = block_sparse.of_kernels or template
            mark = _KERNELS + mark
        n_kept = scheme.n_kept(block_sparse.entries * n_in)
        return Workload(
            key=f"{template.key(self.extents, widths)}{mark}|kept={n_kept}",
            family=f"{template.family}{mark}",
            channels_in=n_in,
            channels_out=n_out,
            macs=template.macs // block_sparse.entries * n_kept * n_out,
            operator=template.operator,
        )
