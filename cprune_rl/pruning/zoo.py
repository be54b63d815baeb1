"""Packaged networks by name, so that `--model resnet8` needs no code of the user's.

Called by the job and by `envs.problems`. Every network takes `(n, 3, 32, 32)` float32 images and
gives `(n, n_classes)` logits. The layers are plain `torch.nn` modules: a dependency graph, an export
and a state_dict must all see the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cprune_rl.errors import UnknownNameError

__all__ = ["MODELS", "ModelSpec", "build_model"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (He et al., CVPR 2016, figure 5 left)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """A CIFAR-style residual network of `6 * n_blocks + 2` layers (He et al., CVPR 2016, section 4.2).

    Args:
        n_blocks: residual blocks in each of the three stages.
        width: channels of the first stage; the next two have twice and four times as many.
        n_classes: logits.
    """

    def __init__(self, n_blocks: int, width: int, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        n_in = width
        for stage, n_out in enumerate((width, 2 * width, 4 * width)):
            for index in range(n_blocks):
                blocks.append(BasicBlock(n_in, n_out, 2 if stage and not index else 1))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(functional.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.fc(y.mean((2, 3)))
        return logits


class VGG(nn.Module):
    """Six 3x3 convolutions in three stages with max pooling between them, and one linear layer."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 3
        for n_out in (width, 2 * width, 4 * width):
            for _ in range(2):
                layers += [nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
                n_in = n_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


@dataclass(frozen=True)
class ModelSpec:
    """How to build one packaged network.

    Attributes:
        build: `n_classes -> module`, with freshly initialised weights.
        input_shape: shape of one batch, `(1, channels, height, width)`.
        summary: one line for `--help` and error messages.
    """

    build: Callable[[int], nn.Module]
    input_shape: tuple[int, int, int, int]
    summary: str


_IMAGE = (1, 3, 32, 32)

MODELS: dict[str, ModelSpec] = {
    "resnet8": ModelSpec(lambda n: ResNet(1, 16, n), _IMAGE, "residual network, 8 layers, 16-32-64 channels"),
    "resnet8-w8": ModelSpec(lambda n: ResNet(1, 8, n), _IMAGE, "resnet8 at half the width (what --fast runs)"),
    "resnet8-w32": ModelSpec(lambda n: ResNet(1, 32, n), _IMAGE, "resnet8 at twice the width"),
    "resnet20": ModelSpec(lambda n: ResNet(3, 16, n), _IMAGE, "residual network, 20 layers"),
    "vgg-small": ModelSpec(lambda n: VGG(16, n), _IMAGE, "six plain convolutions, 16-32-64 channels"),
}


def build_model(name: str, n_classes: int, seed: int = 0) -> nn.Module:
    """Builds a packaged network with weights drawn from `seed`.

    Raises:
        UnknownNameError: no packaged network has that name; the message lists them.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name].build(n_classes)
