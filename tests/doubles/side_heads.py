"""A network with side heads that answer in training mode alone, in several forms."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from typing import Any

import torch
from torch import nn

__all__ = ["FORMS", "N_CLASSES", "SideHeaded"]

N_CLASSES = 10
_Named = namedtuple("_Named", "logits aux")


@dataclasses.dataclass
class _Fields:
    logits: torch.Tensor
    aux: torch.Tensor


FORMS: dict[str, Any] = {
    "a tuple": lambda main, side, _: (main, side),
    "a tuple with the main output last": lambda main, side, _: (side, main),
    "a list": lambda main, side, _: [main, side],
    "a named tuple": lambda main, side, _: _Named(main, side),
    "a dictionary": lambda main, side, _: {"aux": side, "head": main},
    "a dataclass": lambda main, side, _: _Fields(main, side),
    "a nested tuple": lambda main, side, _: (main, [side]),
    "a tuple with a map": lambda main, side, maps: (maps, main, side, None, "done"),
}


class SideHeaded(nn.Module):
    """Gives one tensor in evaluation mode, and a side head's beside it in training mode.

    Args:
        form: in which both are given.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.side = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6), nn.ReLU())
        self.side_fc = nn.Linear(6, N_CLASSES)
        self.fc = nn.Linear(12, N_CLASSES)
        # With this, it holds parameters of its own beside the layers.
        self.scale = nn.Parameter(torch.ones(1))
        self._form = FORMS[form]

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.a(x)
        main = self.fc(self.b(maps).mean((2, 3))) * self.scale
        if not self.training:
            return main
        side = self.side_fc(self.side(maps.mean((2, 3))))
        return self._form(main, side, maps)
