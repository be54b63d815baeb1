"""Parallel linear branches of an exported program, merged into one convolution.

RepVGG's and MobileOne's blocks are trained as a sum of convolutions and norms of the same map. In
evaluation mode such a sum is one convolution. The trained network keeps its branches: only what is
compiled has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from cprune_rl.compiler.export.program_editor import ProgramEditor
from cprune_rl.compiler.export.weight_sources import State, WeightSource

__all__ = ["merge_branches"]

_aten = torch.ops.aten
_CONVOLUTION = _aten.convolution.default
_ADD = _aten.add.Tensor
_MULTIPLY = _aten.mul.Tensor
_VIEW = _aten.view.default


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """One summand: a convolution of a map, or the map itself, scaled and shifted.

    Attributes:
        node: that gives it.
        data: the map that it reads.
        weights: of a convolution, or the scale of each channel; None for a scale of 1.
        bias: None where it has none.
        settings: of a convolution: stride, padding, dilation, transposed, output padding, groups;
            empty where it is none.
    """

    node: fx.Node
    data: fx.Node
    weights: WeightSource | None = None
    bias: WeightSource | None = None
    settings: tuple[Any, ...] = field(default=())

    @property
    def is_convolution(self) -> bool:
        return bool(self.settings)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of the kernel."""
        assert self.weights is not None
        return tuple(extent.constant for extent in self.weights.extents[2:])

    @property
    def padding(self) -> tuple[int, ...]:
        padding = [int(p) for p in self.settings[1]]
        return tuple(padding * len(self.kernel))[: len(self.kernel)]

    def fits(self, main: _Branch) -> bool:
        """Tell whether a branch is a convolution with the main one's kernel and settings."""
        assert main.weights is not None
        if not self.is_convolution:
            has_channels = self.weights is None or self.weights.extents == main.weights.extents[:1]
            keeps_size = all(int(stride) == 1 for stride in main.settings[0])
            is_centred = all(k == 2 * p + 1 for k, p in zip(main.kernel, main.padding, strict=True))
            as_many = self.data.meta["val"].shape[1] == main.node.meta["val"].shape[1]
            return has_channels and keeps_size and is_centred and as_many
        assert self.weights is not None
        alike = [self.settings[at] == main.settings[at] for at in (0, 3, 5)]
        is_dense = all(int(d) == 1 for d in (*self.settings[2], *main.settings[2]))
        return (
            all(alike)
            and is_dense
            and self.weights.extents[:2] == main.weights.extents[:2]
            and all(
                big_pad - pad >= 0 and big_pad - pad + k <= big
                for k, pad, big, big_pad in zip(
                    self.kernel, self.padding, main.kernel, main.padding, strict=True
                )
            )
        )

    def kernel_in(self, main: _Branch, state: State) -> torch.Tensor:
        """Give the branch as a kernel of the main one's size."""
        assert main.weights is not None
        if self.is_convolution:
            assert self.weights is not None
            filling: list[int] = []
            for k, pad, big, big_pad in zip(
                self.kernel, self.padding, main.kernel, main.padding, strict=True
            ):
                before = big_pad - pad
                filling = [before, big - k - before, *filling]  # torch begins with the last axis
            return functional.pad(self.weights.compute(state), filling)
        kernel = torch.zeros_like(main.weights.compute(state))
        channels = torch.arange(len(kernel))
        centre = [torch.tensor(place) for place in main.padding]
        scale = torch.ones(len(kernel)) if self.weights is None else self.weights.compute(state)
        kernel[(channels, channels % kernel.shape[1], *centre)] = scale  # of (out, in, y, x)
        return kernel


def merge_branches(editor: ProgramEditor) -> None:
    """Merge the sums of a program whose summands are convolutions of the same map.

    Args:
        editor: of a program whose batch norms are folded.
    """
    for node in list(editor.graph.nodes):
        is_inner = len(node.users) == 1 and _is_sum(next(iter(node.users)))
        if _is_sum(node) and not is_inner:
            _merge_sum(editor, node)


def _is_sum(node: fx.Node) -> bool:
    """Tell whether a node adds two maps of the same shape."""
    if node.target is not _ADD or node.kwargs:
        return False
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    return bool(left.meta["val"].shape == right.meta["val"].shape)


def _merge_sum(editor: ProgramEditor, top: fx.Node) -> None:
    branches = _summands(editor, top, is_top=True)
    merged: list[fx.Node] = []
    for data in dict.fromkeys(branch.data for branch in branches if branch.is_convolution):
        of_data = [branch for branch in branches if branch.data is data]
        main = max(
            (branch for branch in of_data if branch.is_convolution),
            key=lambda branch: math.prod(branch.kernel),
        )
        fitting = [branch for branch in of_data if branch is main or branch.fits(main)]
        if len(fitting) > 1:
            with editor.graph.inserting_before(top):
                merged.append(_merged(editor, main, fitting))
            branches = [branch for branch in branches if branch not in fitting]
    if not merged:
        return
    with editor.graph.inserting_before(top):
        total, *others = [*merged, *(branch.node for branch in branches)]
        for other in others:
            total = editor.call(_ADD, total, other)
    top.replace_all_uses_with(total)


def _merged(editor: ProgramEditor, main: _Branch, branches: Sequence[_Branch]) -> fx.Node:
    """Add the convolution that computes the sum of branches."""
    weights = main.weights
    assert weights is not None
    owner = weights.label.rpartition(".")[0]

    def kernel(state: State) -> torch.Tensor:
        return torch.stack([branch.kernel_in(main, state) for branch in branches]).sum(0)

    def bias(state: State) -> torch.Tensor:
        values = [b.bias.compute(state) for b in branches if b.bias is not None]
        if not values:
            return torch.zeros(len(weights.compute(state)))
        return torch.stack(values).sum(0)

    # Not `.weight`: a scheme of the layer would not prune what the other branches add.
    sources = [
        WeightSource(label=f"{owner}.merged", extents=weights.extents, compute=kernel),
        WeightSource(label=f"{owner}.bias", extents=weights.extents[:1], compute=bias),
    ]
    made = [
        editor.add_parameter(f"p_{source.label.replace('.', '_')}_merged", source)
        for source in sources
    ]
    return editor.call(_CONVOLUTION, main.data, *made, *main.settings)


def _summands(editor: ProgramEditor, node: Any, *, is_top: bool = False) -> list[_Branch]:
    """Take a sum apart; what is no convolution and no scaled map is a map as it is."""
    is_shared = len(node.users) > 1 and not is_top
    if not is_shared:
        if (branch := _branch(editor, node)) is not None:
            return [branch]
        if _is_sum(node):
            return [part for summand in node.args for part in _summands(editor, summand)]
    return [_Branch(node=node, data=node)]


def _branch(editor: ProgramEditor, node: Any) -> _Branch | None:
    """Read a convolution, or a map that is scaled and shifted; None of anything else."""
    if node.target is _CONVOLUTION:
        data, weights_node, bias_node, *settings = node.args
        weights = editor.source(weights_node)
        bias = None if bias_node is None else editor.source(bias_node)
        is_known = weights is not None and (bias_node is None or bias is not None)
        if not is_known or settings[3]:
            return None
        return _Branch(node=node, data=data, weights=weights, bias=bias, settings=tuple(settings))
    if node.target is _ADD and not node.kwargs:
        scaled, shift_node = node.args
        shift = _by_channel(editor, shift_node)
        if shift is None or getattr(scaled, "target", None) is not _MULTIPLY:
            return None
        data, scale_node = scaled.args
        scale = _by_channel(editor, scale_node)
        if scale is not None and isinstance(data, fx.Node):
            return _Branch(node=node, data=data, weights=scale, bias=shift)
    return None


def _by_channel(editor: ProgramEditor, node: Any) -> WeightSource | None:
    """Give the values of a parameter that is viewed as one value for each channel of a map."""
    if getattr(node, "target", None) is not _VIEW:
        return None
    shape = list(node.args[1])
    is_by_channel = len(shape) == 4 and [int(s) for at, s in enumerate(shape) if at != 1] == [1] * 3
    return editor.source(node.args[0]) if is_by_channel else None
