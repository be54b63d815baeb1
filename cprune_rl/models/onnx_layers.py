"""Gives the module of torch's that a node of an ONNX file is, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["as_layer"]

_ONNX_MOMENTUM = 0.9  # of a batch norm that names none
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def as_layer(
    node: Any, operation: Any, known: Mapping[str, torch.Tensor], example: torch.Tensor
) -> nn.Module | None:
    """Give the module of torch's that a node is; None where it is none.

    Args:
        node: of the file.
        operation: what the converter made of it.
        known: those of its inputs that are constants.
        example: its input that depends on the images.
    """
    from onnx2pytorch import operations

    if node.op_type == "PRelu":
        slopes = list(known.values())
        return _prelu(slopes[0], example) if slopes else None
    if not isinstance(operation, nn.Module) or isinstance(operation, nn.Identity):
        return None
    for parameter in operation.parameters():
        parameter.data = parameter.data.contiguous()
    if isinstance(operation, operations.BatchNormWrapper):
        return None if operation.has_lazy else _batch_norm(node, operation.bnu, example.dim())
    if isinstance(operation, operations.ConvTranspose):
        return _transposed(operation)
    for part in operation.modules():
        if isinstance(part, nn.modules.pooling._MaxPoolNd):
            part.return_indices = False
    return operation if type(operation).__module__.startswith("torch.") else None


def _batch_norm(node: Any, norm: Any, n_axes: int) -> nn.Module | None:
    if n_axes not in _BATCH_NORMS:
        return None
    kept = {a.name: a.f for a in node.attribute}.get("momentum", _ONNX_MOMENTUM)
    # torch's momentum is the share of the new value, ONNX's that of the old one
    plain = _BATCH_NORMS[n_axes](norm.num_features, eps=norm.eps, momentum=1 - kept)
    plain.load_state_dict(norm.state_dict(), strict=False)
    return plain


def _transposed(operation: Any) -> nn.Module | None:
    """Give the layer alone, where what ONNX crops is what torch's own padding crops."""
    layer: Any = operation.conv
    n_axes = layer.weight.dim() - 2
    pads = operation.pads or (0,) * (2 * n_axes)
    is_plain = operation.output_shape is None and operation.auto_pad in ("NOTSET", "VALID")
    if not is_plain or pads[:n_axes] != pads[n_axes:]:
        return None
    layer.padding = tuple(pads[:n_axes])
    plain: nn.Module = layer
    return plain


def _prelu(slope: torch.Tensor, example: torch.Tensor) -> nn.Module | None:
    if slope.numel() not in (1, example.shape[1]) or slope.numel() != max(slope.shape, default=1):
        return None
    layer = nn.PReLU(slope.numel())
    layer.weight.data = slope.reshape(-1).clone()
    return layer
