"""Packaged networks, so that `--model resnet8` needs no code of the user's.

Every network takes `(n, n_channels, height, width)` float32 images, made for 32 by 32 in colour,
and gives `(n, n_classes)` logits. The layers are plain `torch.nn` modules: a dependency graph, an
export and a state_dict must all see the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

__all__ = ["MODELS", "ModelSpec"]


class BasicBlock(nn.Module):
    """Adds its input to what two 3x3 convolutions give (He et al., CVPR 2016, figure 5 left)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Stacks residual blocks for CIFAR, `6 * n_blocks + 2` layers.

    He et al., CVPR 2016, section 4.2.

    Args:
        n_blocks: residual blocks in each of the three stages.
        width: channels of the first stage; the next two have twice and four times as many.
        n_classes: logits.
        n_channels: of the images.
    """

    def __init__(self, n_blocks: int, width: int, n_classes: int, n_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_channels, width, 3, 1, 1, bias=False)
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
    """Stacks plain 3x3 convolutions in stages, with max pooling after each and one linear layer.

    Simonyan and Zisserman, ICLR 2015, with batch norms.

    Args:
        stages: channels of each stage's convolutions.
        n_classes: logits.
        n_channels: of the images.
    """

    def __init__(
        self, stages: Sequence[Sequence[int]], n_classes: int, n_channels: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = n_channels
        for stage in stages:
            for n_out in stage:
                layers += [
                    nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(n_out),
                    nn.ReLU(),
                ]
                n_in = n_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expands channels, convolves each by itself, and projects them back.

    It adds its input where shapes allow (Sandler et al., CVPR 2018, figure 4).
    """

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = n_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(n_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
        ]
        layers += [nn.Conv2d(hidden, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.body = nn.Sequential(*layers)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """Stacks inverted residual blocks at the sizes of small images (Sandler et al., CVPR 2018).

    Args:
        width: channels of the stem, which halves the image; the four stages have 1, 2, 3 and 4
            times as many.
        n_classes: logits.
        n_channels: of the images.
    """

    def __init__(self, width: int, n_classes: int, n_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(n_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        blocks: list[nn.Module] = [InvertedResidual(width, width, stride=1, expansion=1)]
        n_in = width
        for multiple, stride in ((2, 1), (3, 2), (4, 2)):
            for index in range(2):
                n_out = multiple * width
                blocks.append(
                    InvertedResidual(n_in, n_out, stride=1 if index else stride, expansion=4)
                )
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Conv2d(n_in, 8 * width, 1, bias=False), nn.BatchNorm2d(8 * width), nn.ReLU6()
        )
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


class BuildNetwork(Protocol):
    """Makes a network with freshly initialised weights."""

    def __call__(self, n_classes: int, n_channels: int = 3) -> nn.Module:
        """Makes it for so many classes, and for images of so many channels."""


@dataclass(frozen=True)
class ModelSpec:
    """Says how to build one packaged network.

    Attributes:
        build: `n_classes, n_channels=3 -> module`, with freshly initialised weights.
        input_shape: shape of one batch, `(1, channels, height, width)`, that it was made for.
        summary: one line for `--help` and error messages.
    """

    build: BuildNetwork
    input_shape: tuple[int, int, int, int]
    summary: str


_IMAGE = (1, 3, 32, 32)
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

MODELS: dict[str, ModelSpec] = {
    "resnet8": ModelSpec(
        partial(ResNet, 1, 16), _IMAGE, "residual network, 8 layers, 16-32-64 channels"
    ),
    "resnet8-w8": ModelSpec(
        partial(ResNet, 1, 8), _IMAGE, "resnet8 at half the width (what --effort fast takes)"
    ),
    "resnet8-w32": ModelSpec(partial(ResNet, 1, 32), _IMAGE, "resnet8 at twice the width"),
    "resnet20": ModelSpec(partial(ResNet, 3, 16), _IMAGE, "residual network, 20 layers"),
    "mobilenetv2-small": ModelSpec(
        partial(MobileNetV2, 16), _IMAGE, "seven inverted residual blocks, 16-32-48-64 channels"
    ),
    "vgg-small": ModelSpec(
        partial(VGG, ((16, 16), (32, 32), (64, 64))),
        _IMAGE,
        "six plain convolutions, 16-32-64 channels",
    ),
    "vgg16-cifar": ModelSpec(
        partial(VGG, _VGG16),
        _IMAGE,
        "13 plain convolutions, 64 to 512 channels: wide, as in the papers",
    ),
}
"""Packaged networks by name."""
