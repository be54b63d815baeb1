"""Small networks that compute what their image has no part in, or their answer does not need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from tests.compiler.user_networks import N_CLASSES, Headed, unit


class Noting(Headed):
    """Keeps means over all channels, of which its answer does not depend."""

    def __init__(self) -> None:
        super().__init__()
        self.last = unit(8, 16)
        self.note: list[torch.Tensor] = []

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.last(x)
        self.note = [x.mean(), maps.flatten(1).norm()]
        return maps  # type: ignore[no-any-return]


class Casting(Headed):
    """Casts maps and weights, which torch.export checks the types of."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = unit(8, 8), nn.Conv2d(8, 16, 3, 2, 1)
        self.last.register_buffer("mask", torch.arange(16).view(-1, 1, 1, 1) % 2 == 0)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.last.weight * self.last.mask.to(torch.float32)
        return functional.conv2d(self.inner(x).double().float(), weight, self.last.bias, 2, 1)


class Placed(Headed):
    """Tells its convolution where it is, and adds another table to each row."""

    def __init__(self) -> None:
        super().__init__()
        self.last = unit(10, 16)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        down = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(n, 1, height, width)
        across = torch.arange(width).view(1, 1, 1, width).expand(n, 1, height, width) / width
        maps = self.last(torch.cat([x, down, across], 1))
        return maps + torch.sin(torch.arange(height) * 0.5)[:, None]  # type: ignore[no-any-return]


def enlarged() -> nn.Module:
    return nn.Sequential(
        unit(3, 8, stride=2),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.Conv2d(8, 8, 3, 2),
        nn.GroupNorm(8, 8),
        nn.ReLU(),
        nn.Upsample(size=12, mode="bilinear", align_corners=True),
        nn.Conv2d(8, 16, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )


def masked() -> nn.Module:
    """A layer of which torch's own pruning masks half of the weights, in each run."""
    model = nn.Sequential(
        unit(3, 8, stride=2),
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )
    prune.l1_unstructured(model[1], "weight", 0.5)
    return model


COMPUTING_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "means that are only kept": Noting,
    "casts of maps and weights": Casting,
    "weights with a mask": masked,
    "places of maps": Placed,
    "maps of other sizes": enlarged,
}
