"""A network as the lowering wants it:

batch norms folded before it is exported, awkward operators written otherwise after.

Called by `workload`, and by whoever needs the values of the folded parameters.
"""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from tvm import relax
from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard

from cprune_rl.compiler.export.fused_calls import scalar
from cprune_rl.errors import ModelError

__all__ = ["fold_batch_norms", "simplify_operators"]


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, batch norms folded into the convolutions before them;

    the others scale and shift, by parameters under their own names.

    Raises:
        ModelError: torch.fx cannot trace the network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded: nn.Module = fuse(
                _with_norms_as_modules(fx.symbolic_trace(model.eval())), no_trace=True
            )
    except Exception as error:  # torch.fx raises whatever the user's forward provokes
        raise ModelError(
            f"torch.fx cannot trace the network to fold its batch norms: {error}"
        ) from error
    for name, module in list(folded.named_modules()):
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.affine
            and module.running_mean is not None
        ):
            parent, _, own = name.rpartition(".")
            setattr(folded.get_submodule(parent), own, _ScaleAndShift(module))
    return folded.eval()


def _with_norms_as_modules(traced: fx.GraphModule) -> fx.GraphModule:
    """Batch norms that a layer of the user's own calls as a function, as modules in its place:

    timm's norms with an activation are such.
    """
    for node in [
        n for n in traced.graph.nodes if n.op == "call_function" and n.target is F.batch_norm
    ]:
        call = (
            dict(
                zip(
                    (
                        "input",
                        "running_mean",
                        "running_var",
                        "weight",
                        "bias",
                        "training",
                        "momentum",
                        "eps",
                    ),
                    node.args,
                    strict=False,
                )
            )
            | node.kwargs
        )
        held = [call.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
        owners = {
            str(n.target).rpartition(".")[0]
            for n in held
            if isinstance(n, fx.Node) and n.op == "get_attr"
        }
        if (
            not all(isinstance(n, fx.Node) for n in held)
            or len(owners) != 1
            or call.get("training", False) is not False
        ):
            # without statistics or scale of its own, or by those of each batch, it stays as it is
            # written
            continue
        owner = owners.pop()
        values = [operator.attrgetter(str(n.target))(traced) for n in held]
        norm = nn.BatchNorm2d(len(values[0]), eps=call.get("eps", 1e-5)).eval()
        norm.running_mean, norm.running_var = values[0], values[1]
        norm.weight, norm.bias = nn.Parameter(values[2]), nn.Parameter(values[3])
        for name, inner in traced.get_submodule(owner).named_children():  # the activation
            norm.add_module(name, inner)
        traced.set_submodule(owner, norm)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.call_module(owner, (call["input"],)))
        traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


class _ScaleAndShift(nn.Module):
    """A batch norm in evaluation mode:

    its statistics would be constants, which do not get narrower.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            self.weight, self.bias = (
                nn.Parameter(scale),
                nn.Parameter(norm.bias - norm.running_mean * scale),
            )
        for name, inner in norm.named_children():
            self.add_module(name, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


def simplify_operators(function: relax.Function) -> relax.Function:
    """An imported function without operators that would be in the way further on.

    `clip` becomes a maximum and a minimum: it has no layout rule of its own, and would be hemmed in
    by transposes.
    `take` of one constant index becomes a slice: the index would be an argument of a task, to be
    timed with any number.
    `split` becomes slices, so that each subgraph has one result.
    """
    value, low, high = wildcard(), wildcard(), wildcard()

    def bounded(_: Any, found: Any) -> Any:
        floor, ceiling = (
            relax.const(float(getattr(b, "value", b)), found[value].ty.dtype)
            for b in (found[low], found[high])
        )
        return relax.op.minimum(relax.op.maximum(found[value], floor), ceiling)

    function = rewrite_call(is_op("relax.clip")(value, low, high), bounded, function)
    index = is_const()

    def sliced(call: Any, found: Any) -> Any:
        if call.attrs.axis is None or len(found[index].ty.shape):
            return call
        axis, at = int(call.attrs.axis), int(scalar(found[index]))
        length = int(found[value].ty.shape[axis])
        at += length if at < 0 else 0
        return relax.op.squeeze(
            relax.op.strided_slice(found[value], [axis], [at], [at + 1]), [axis]
        )

    function = rewrite_call(is_op("relax.take")(value, index), sliced, function)

    def parted(call: Any, found: Any) -> Any:
        axis, sections = int(call.attrs.axis), call.attrs.indices_or_sections
        length = int(found[value].ty.shape[axis])
        cuts = (
            (0, *map(int, sections))
            if isinstance(sections, Iterable)
            else range(0, length, -(-length // int(sections)))
        )
        bounds = [*cuts, length]
        return relax.Tuple(
            [
                relax.op.strided_slice(found[value], [axis], [low], [high])
                for low, high in itertools.pairwise(bounds)
            ]
        )

    return rewrite_call(is_op("relax.split")(value), parted, function)
