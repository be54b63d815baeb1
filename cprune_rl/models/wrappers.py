"""Takes off what users put around a network to train it: DataParallel and torch.compile."""

from __future__ import annotations

import sys

import torch
from torch import nn

from cprune_rl.errors import ModelError

__all__ = ["unwrap"]

# Attribute of each kind of wrapper that holds the module inside.
_WRAPPERS: dict[type[nn.Module], str] = {
    nn.DataParallel: "module",
    nn.parallel.DistributedDataParallel: "module",
}


def unwrap(model: nn.Module) -> nn.Module:
    """Gives the network without wrappers, also where they are around a part of it.

    Args:
        model: changed in place where a part of it is wrapped.

    Raises:
        ModelError: it is a TorchScript module or an exported program, which cannot be pruned.
    """
    model = _inner(model)
    _unwrap_parts(model)
    for name, module in model.named_modules():
        # What `module.compile()` leaves.
        module._compiled_call_impl = None
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its part {name!r}" if name else "the network"
            raise ModelError(
                f"{where} is TorchScript, whose layers cannot be cut. Give the module that it was "
                "made from."
            )
    return model


def _unwrap_parts(model: nn.Module) -> None:
    for name, part in model._modules.items():
        if part is not None:
            inner = _inner(part)
            model._modules[name] = inner
            _unwrap_parts(inner)


def _inner(module: nn.Module) -> nn.Module:
    wrappers = dict(_WRAPPERS)
    # torch.compile imports its compiler, which takes seconds: who has not, wraps nothing by it
    if compiler := sys.modules.get("torch._dynamo"):
        wrappers[compiler.OptimizedModule] = "_orig_mod"
    for kind, attribute in wrappers.items():
        if isinstance(module, kind):
            return _inner(getattr(module, attribute))
    return module
