"""A network's weights: named by a hash, and written to a file."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

__all__ = ["network_hash", "save_weights"]


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes a state_dict as safetensors.

    A module that is registered under two names has its weights under both, as its state_dict has.

    Args:
        model: the network.
        path: file to write.
    """
    save_file(
        {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in model.state_dict().items()
        },
        path,
    )


def network_hash(model: nn.Module) -> str:
    """Names a network: its weights and what it computes with them, which a function of the user's
    may have changed since.
    """
    digest = hashlib.sha256(_computation(model).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def _computation(model: nn.Module) -> str:
    """Layers with their settings, and the code between them;

    where it cannot be traced, the sources of its modules.
    """
    try:
        code = torch.fx.symbolic_trace(model).code
    except Exception:  # torch.fx raises whatever the network does with a stand-in for its input
        kinds = {
            type(module)
            for module in model.modules()
            if not type(module).__module__.startswith("torch.nn.")
        }
        code = "".join(_source(kind) for kind in sorted(kinds, key=lambda kind: kind.__qualname__))
    return f"{model!r}\n{code}"


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made at run time
        return kind.__qualname__
