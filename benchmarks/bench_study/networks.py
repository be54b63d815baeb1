"""Networks of the pruning bench that are not packaged: small ones of several families."""

from __future__ import annotations

import torch
from torch import nn

from cprune_rl.models.zoo import VGG, MobileNetV2, ResNet


def resnet14_w8(n_classes: int, n_channels: int = 3) -> nn.Module:
    """Fourteen layers, 8-16-32 channels."""
    return ResNet(2, 8, n_classes, n_channels)


def vgg_w8(n_classes: int, n_channels: int = 3) -> nn.Module:
    """Six plain convolutions, 8-16-32 channels."""
    return VGG(((8, 8), (16, 16), (32, 32)), n_classes, n_channels)


def mobilenetv2_w8(n_classes: int, n_channels: int = 3) -> nn.Module:
    """Inverted residual blocks at half the width of the packaged network."""
    return MobileNetV2(8, n_classes, n_channels)


def densenet_w8(n_classes: int, n_channels: int = 3) -> nn.Module:
    """Three dense blocks of three layers that grow by 8 channels."""
    return DenseNet(8, n_classes, n_channels)


class DenseNet(nn.Module):
    """Concatenates what all layers of a block gave (Huang et al., CVPR 2017), small."""

    def __init__(self, growth: int, n_classes: int, n_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(n_channels, 2 * growth, 3, padding=1, bias=False)
        n_in = 2 * growth
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for block in range(3):
            layers = nn.ModuleList()
            for _ in range(3):
                layers.append(_layer(n_in, growth, 3))
                n_in += growth
            self.blocks.append(layers)
            if block < 2:
                self.transitions.append(_layer(n_in, n_in // 2, 1))
                n_in //= 2
        self.norm = nn.BatchNorm2d(n_in)
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for at, layers in enumerate(self.blocks):
            for layer in layers:
                x = torch.cat([x, layer(x)], dim=1)
            if at < len(self.transitions):
                x = nn.functional.avg_pool2d(self.transitions[at](x), 2)
        x = torch.relu(self.norm(x)).mean((2, 3))
        logits: torch.Tensor = self.fc(x)
        return logits


def _layer(n_in: int, n_out: int, kernel: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(n_in),
        nn.ReLU(),
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
    )
