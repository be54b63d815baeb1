"""Batch norms of an exported program, folded into the convolutions before them.

Each call is folded by itself, so a convolution that runs twice with a norm of its own each time
becomes two convolutions. Any other norm scales and shifts, by two parameters: its statistics would
be constants, which do not get narrower.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cprune_rl.compiler.export.program_editor import ProgramEditor
from cprune_rl.compiler.export.weight_sources import State, WeightSource
from cprune_rl.errors import ModelError

__all__ = ["fold_batch_norms", "module_name"]

_aten = torch.ops.aten
_IN_EVALUATION = _aten._native_batch_norm_legit_no_training.default
_BY_THE_BATCH = (
    _aten._native_batch_norm_legit.no_stats,
    _aten._native_batch_norm_legit.default,
    _aten._native_batch_norm_legit_functional.default,
)


@dataclass(frozen=True, kw_only=True)
class _Norm:
    """A batch norm in evaluation mode.

    Attributes:
        name: of its module.
        scale: `None` where it has none.
        shift: `None` where it has none.
        mean: over the training images.
        variance: likewise.
        epsilon: that is added to the variance.
    """

    name: str
    scale: WeightSource | None
    shift: WeightSource | None
    mean: WeightSource
    variance: WeightSource
    epsilon: float

    def folded(
        self, state: State, weights: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give a convolution's weights and bias with the norm in them."""
        return fuse_conv_bn_weights(
            weights,
            bias,
            self.mean.compute(state),
            self.variance.compute(state),
            self.epsilon,
            _value(self.scale, state),
            _value(self.shift, state),
        )

    def as_scale_and_shift(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the two vectors that do the same."""
        mean = self.mean.compute(state)
        scale = torch.rsqrt(self.variance.compute(state) + self.epsilon)
        if self.scale is not None:
            scale = self.scale.compute(state) * scale
        shift = torch.zeros_like(mean) if self.shift is None else self.shift.compute(state)
        return scale, shift - mean * scale


def fold_batch_norms(editor: ProgramEditor) -> None:
    """Fold the batch norms of a program.

    Raises:
        ModelError: one uses the statistics of each batch in evaluation mode too.
    """
    folder = _Folder(editor)
    for node in list(editor.graph.nodes):
        if node.target in _BY_THE_BATCH:
            raise ModelError(
                f"batch norm {module_name(node) or node.name} uses the statistics of each batch in "
                "evaluation mode too, so an image's answer depends on the others beside it. "
                "Build it with track_running_stats=True and train the network again."
            )
        if node.target is _IN_EVALUATION:
            folder.replace(node)


class _Folder:
    def __init__(self, editor: ProgramEditor) -> None:
        self._editor = editor
        # Parameters that were made, by all that they are made of.
        self._made: dict[tuple[Any, ...], tuple[fx.Node, fx.Node]] = {}

    def replace(self, node: fx.Node) -> None:
        """Replace a norm, whose node gives a tuple with the map in the first place."""
        norm = self._norm(node)
        convolution = node.args[0]
        assert isinstance(convolution, fx.Node)
        if self._can_fold(convolution):
            # In the convolution's own place, so that the order of subgraphs stays.
            with self._editor.graph.inserting_before(convolution):
                new = self._folded(convolution, norm, node)
        else:
            with self._editor.graph.inserting_before(node):
                new = self._scaled(convolution, norm, node)
        for user in list(node.users):
            if user.target is operator.getitem and user.args[1] == 0:
                user.replace_all_uses_with(new)

    def _norm(self, node: Any) -> _Norm:
        _, scale, shift, mean, variance, _, epsilon = node.args
        means = self._editor.source(mean)
        variances = self._editor.source(variance)
        assert means is not None
        assert variances is not None
        return _Norm(
            name=means.label.rpartition(".")[0],
            scale=self._editor.source(scale),
            shift=self._editor.source(shift),
            mean=means,
            variance=variances,
            epsilon=float(epsilon),
        )

    def _can_fold(self, node: fx.Node) -> bool:
        """Whether a norm's input is a convolution that nothing else reads."""
        if node.target is not _aten.convolution.default or len(node.users) > 1:
            return False
        _, weights, bias, *_ = node.args
        is_transposed = node.args[6]
        has_sources = self._editor.source(weights) is not None and (
            bias is None or self._editor.source(bias) is not None
        )
        return has_sources and not is_transposed

    def _folded(self, convolution: fx.Node, norm: _Norm, node: fx.Node) -> fx.Node:
        data, weights_node, bias_node, *settings = convolution.args
        weights = self._editor.source(weights_node)
        bias = self._editor.source(bias_node)
        assert weights is not None
        key = (weights_node, bias_node, *node.args[1:])
        if key not in self._made:
            owner = weights.label.rpartition(".")[0]
            self._made[key] = self._parameters(
                WeightSource(
                    label=weights.label,
                    extents=weights.extents,
                    compute=lambda state: norm.folded(
                        state, weights.compute(state), _value(bias, state)
                    )[0],
                ),
                WeightSource(
                    label=f"{owner}.bias",
                    extents=weights.extents[:1],
                    compute=lambda state: norm.folded(
                        state, weights.compute(state), _value(bias, state)
                    )[1],
                ),
            )
        return self._editor.call(_aten.convolution.default, data, *self._made[key], *settings)

    def _scaled(self, data: fx.Node, norm: _Norm, node: fx.Node) -> fx.Node:
        key = tuple(node.args[1:])
        if key not in self._made:
            self._made[key] = self._parameters(
                WeightSource(
                    label=f"{norm.name}.weight",
                    extents=norm.mean.extents,
                    compute=lambda state: norm.as_scale_and_shift(state)[0],
                ),
                WeightSource(
                    label=f"{norm.name}.bias",
                    extents=norm.mean.extents,
                    compute=lambda state: norm.as_scale_and_shift(state)[1],
                ),
            )
        value = data.meta["val"]
        shape = [1, value.shape[1], *(1 for _ in value.shape[2:])]
        scale, shift = self._made[key]
        call = self._editor.call
        scaled = call(_aten.mul.Tensor, data, call(_aten.view.default, scale, shape))
        return call(_aten.add.Tensor, scaled, call(_aten.view.default, shift, shape))

    def _parameters(self, *sources: WeightSource) -> tuple[fx.Node, fx.Node]:
        weights, bias = (
            self._editor.add_parameter(f"p_{source.label.replace('.', '_')}_folded", source)
            for source in sources
        )
        return weights, bias


def _value(source: WeightSource | None, state: State) -> torch.Tensor | None:
    return None if source is None else source.compute(state)


def module_name(node: fx.Node) -> str:
    """Give the name of the module whose forward called an operator; empty where none did."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(name) for name, _ in stack.values()]
    return names[-1].removeprefix("L['self'].") if names else ""
