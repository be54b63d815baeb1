"""A finished network as a file that torch alone runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

__all__ = ["export_torch"]


def export_torch(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Writes a file that `torch.export.load` reads, without this package."""
    example = torch.zeros(input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecated calls
        plain: nn.Module = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        torch.export.save(torch.export.export(plain, (example,)), path)
