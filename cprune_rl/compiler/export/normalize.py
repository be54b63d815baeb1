"""A network as the lowering wants it.

Batch norms are folded before it is exported; awkward operators are written otherwise afterwards.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm
from tvm import relax
from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard

from cprune_rl.compiler.export.fused_calls import scalar
from cprune_rl.errors import ModelError

__all__ = ["fold_batch_norms", "folded_values", "simplify_operators"]


def folded_values(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the state_dict of a network after `fold_batch_norms`."""
    state = fold_batch_norms(model).state_dict()
    return {name: value.detach().numpy() for name, value in state.items()}


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, with batch norms folded into the convolutions before them.

    The others scale and shift, by parameters under their own names.

    Raises:
        ModelError: torch.fx cannot trace the network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = _with_norms_as_modules(fx.symbolic_trace(model.eval()))
            folded: nn.Module = fuse(traced, no_trace=True)
    except Exception as error:  # torch.fx raises whatever the user's forward provokes
        raise ModelError(
            f"torch.fx cannot trace the network to fold its batch norms: {error}"
        ) from error
    for name, module in list(folded.named_modules()):
        is_norm = isinstance(module, _BatchNorm)
        if is_norm and module.affine and module.running_mean is not None:
            folded.set_submodule(name, _ScaleAndShift(module))
    return folded.eval()


def _with_norms_as_modules(traced: fx.GraphModule) -> fx.GraphModule:
    """Put a module in the place of each batch norm that a user's layer calls as a function.

    timm's norms with an activation are such layers.
    """
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target is F.batch_norm:
            _replace_by_module(traced, node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _replace_by_module(traced: fx.GraphModule, node: fx.Node) -> None:
    call = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs).arguments
    read = [call.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    names = [str(n.target) for n in read if isinstance(n, fx.Node) and n.op == "get_attr"]
    owners = {name.rpartition(".")[0] for name in names}
    reads_own = len(names) == len(read) and len(owners) == 1
    if not reads_own or call.get("training", False) is not False:
        # Without statistics or scale of its own, or by those of each batch, it stays as it is.
        return
    owner = owners.pop()
    mean, variance, weight, bias = (operator.attrgetter(name)(traced) for name in names)
    norm = nn.BatchNorm2d(len(mean), eps=call.get("eps", 1e-5)).eval()
    norm.running_mean = mean
    norm.running_var = variance
    norm.weight = nn.Parameter(weight)
    norm.bias = nn.Parameter(bias)
    _adopt_children(norm, traced.get_submodule(owner))
    traced.set_submodule(owner, norm)
    with traced.graph.inserting_before(node):
        node.replace_all_uses_with(traced.graph.call_module(owner, (call["input"],)))
    traced.graph.erase_node(node)


def _adopt_children(module: nn.Module, other: nn.Module) -> None:
    """Keep another module's children under their names: a norm may hold its activation."""
    for name, child in other.named_children():
        module.add_module(name, child)


class _ScaleAndShift(nn.Module):
    """A batch norm in evaluation mode, by two parameters.

    Its statistics would be constants, which do not get narrower.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            self.weight = nn.Parameter(scale)
            self.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        _adopt_children(self, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


def simplify_operators(function: relax.Function) -> relax.Function:
    """Rewrite the operators of an imported function that would be in the way further on.

    - `clip` becomes a maximum and a minimum. It has no layout rule of its own, and would be hemmed
      in by transposes.
    - `take` of one constant index becomes a slice. The index would be an argument of a task, and
      be timed with any number.
    - `split` becomes slices, so that each subgraph has one result.
    """
    value = wildcard()
    low = wildcard()
    high = wildcard()
    index = is_const()

    def bounded(_: Any, matched: Any) -> Any:
        dtype = matched[value].ty.dtype
        floor, ceiling = (
            relax.const(float(getattr(bound, "value", bound)), dtype)
            for bound in (matched[low], matched[high])
        )
        return relax.op.minimum(relax.op.maximum(matched[value], floor), ceiling)

    def taken(call: Any, matched: Any) -> Any:
        if call.attrs.axis is None or len(matched[index].ty.shape):
            return call
        axis = int(call.attrs.axis)
        at = int(scalar(matched[index]))
        if at < 0:
            at += int(matched[value].ty.shape[axis])
        return relax.op.squeeze(_slice(matched[value], axis, at, at + 1), [axis])

    def parted(call: Any, matched: Any) -> Any:
        axis = int(call.attrs.axis)
        sections = call.attrs.indices_or_sections
        length = int(matched[value].ty.shape[axis])
        if isinstance(sections, Iterable):
            starts = [0, *map(int, sections)]
        else:
            starts = list(range(0, length, -(-length // int(sections))))
        bounds = itertools.pairwise([*starts, length])
        return relax.Tuple([_slice(matched[value], axis, *pair) for pair in bounds])

    function = rewrite_call(is_op("relax.clip")(value, low, high), bounded, function)
    function = rewrite_call(is_op("relax.take")(value, index), taken, function)
    return rewrite_call(is_op("relax.split")(value), parted, function)


def _slice(value: Any, axis: int, first: int, end: int) -> Any:
    return relax.op.strided_slice(value, [axis], [first], [end])
