"""Networks of these runs that are not packaged, as a user's file has them.

`--model benchmarks/real_images/networks.py:lenet`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["lenet", "resnet20", "resnet56"]


def lenet(n_classes: int, n_channels: int = 1) -> nn.Module:
    """Make a network in the manner of LeNet-5: two convolutions, three linear layers.

    LeCun et al., Proceedings of the IEEE 86, 1998; with ReLU, batch norms and max pooling.

    Args:
        n_classes: logits.
        n_channels: of the images, of 28 x 28 pixels.
    """
    return nn.Sequential(
        nn.Conv2d(n_channels, 20, 5, padding=2, bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 48, 5, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, n_classes),
    )


def resnet20(n_classes: int) -> nn.Module:
    """Make the ResNet-20 of published CIFAR-10 checkpoints."""
    return _CifarResNet(3, n_classes)


def resnet56(n_classes: int) -> nn.Module:
    """Make the ResNet-56 of published CIFAR-10 checkpoints."""
    return _CifarResNet(9, n_classes)


class _Block(nn.Module):
    """Two convolutions beside a shortcut without weights (He et al., CVPR 2016, option A)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.n_padded = (n_out - n_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.n_padded:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.n_padded, self.n_padded))
        return functional.relu(y + x)


class _CifarResNet(nn.Module):
    """Names its layers as the checkpoints do: `layer1.0.conv1`, ..., `linear`."""

    def __init__(self, n_blocks: int, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(n_blocks, 16, 16)
        self.layer2 = _stage(n_blocks, 16, 32)
        self.layer3 = _stage(n_blocks, 32, 64)
        self.linear = nn.Linear(64, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: torch.Tensor = self.linear(y.mean((2, 3)))
        return logits


def _stage(n_blocks: int, n_in: int, n_out: int) -> nn.Sequential:
    first = _Block(n_in, n_out, 1 if n_in == n_out else 2)
    return nn.Sequential(first, *(_Block(n_out, n_out, 1) for _ in range(n_blocks - 1)))
