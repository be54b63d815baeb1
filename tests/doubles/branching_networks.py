"""Small networks whose channels part and meet, as published networks have them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["BRANCHING_NETWORKS", "N_CLASSES"]

N_CLASSES = 5


def unit(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution with its norm and activation."""
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


class Classifier(nn.Module):
    """A stem, a body, and a linear layer.

    Args:
        width: channels of the stem.
        body: what comes in between.
        n_out: channels of the body.
    """

    def __init__(self, width: int, body: nn.Module, n_out: int) -> None:
        super().__init__()
        self.stem = unit(3, width, stride=2)
        self.body = body
        self.fc = nn.Linear(n_out, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.body(self.stem(x)).mean((2, 3)))
        return logits


class ResidualOverConcat(nn.Module):
    """Two branches, joined, and a residual block over both."""

    def __init__(self) -> None:
        super().__init__()
        self.one = unit(16, 12, 1)
        self.three = unit(16, 20, 3)
        self.inner = nn.Sequential(unit(32, 24), nn.Conv2d(24, 32, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.one(x), self.three(x)], 1)
        return torch.relu(x + self.inner(x))


class Inception(nn.Module):
    """Four branches, one of them pooled, then four more."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.one = unit(n_in, 8, 1)
        self.three = nn.Sequential(unit(n_in, 6, 1), unit(6, 12))
        self.five = nn.Sequential(unit(n_in, 4, 1), unit(4, 8, 5))
        self.pooled = unit(n_in, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


class CrossStage(nn.Module):
    """A stage of CSP: half of the channels pass by (here by `chunk`)."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = unit(16, 32, 1)
        self.inner = nn.Sequential(unit(16, 10, 1), unit(10, 16))
        self.after = unit(16, 16, 1)
        self.join = unit(32, 24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passing, x = self.expand(x).chunk(2, 1)
        x = self.after(x + self.inner(x))
        y: torch.Tensor = self.join(torch.cat([passing, x], 1))
        return y


class Ghost(nn.Module):
    """GhostNet's module: half of the channels are made of the others, each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.n_out = 24
        self.primary = unit(16, 12, 1)
        self.cheap = unit(12, 12, 3, groups=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        some = self.primary(x)
        return torch.cat([some, self.cheap(some)], 1)[:, : self.n_out]


class Shuffle(nn.Module):
    """Two units of ShuffleNet V2."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(unit(8, 12, 1), unit(12, 12, 3, groups=12), unit(12, 8, 1))
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for branch in self.branches:
            passing, y = x.chunk(2, dim=1)
            x = torch.cat((passing, branch(y)), dim=1)
            n, channels, height, width = x.shape
            x = x.view(n, 2, channels // 2, height, width)
            x = x.transpose(1, 2).reshape(n, channels, height, width)
        return x


class Dense(nn.Module):
    """Three layers of DenseNet: each reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 8, 3, 1, 1))
            for i in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class C2f(nn.Module):
    """YOLOv8's block: halves, of which one goes through bottlenecks whose results are all kept."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = unit(16, 24, 1)
        self.inner = nn.ModuleList(nn.Sequential(unit(12, 8), unit(8, 12)) for _ in range(2))
        self.leave = unit(48, 20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.enter(x).chunk(2, 1)
        parts = [first, second]
        for block in self.inner:
            parts.append(parts[-1] + block(parts[-1]))
        y: torch.Tensor = self.leave(torch.cat(parts, 1))
        return y


class FixedSplit(nn.Module):
    """Parts of unlike lengths, whose lengths stand in the forward: only the last can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = unit(16, 24, 1)
        self.some = unit(8, 10)
        self.others = unit(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        return torch.cat([self.others(x[:, 8:]), self.some(x[:, :8])], 1)


class KeptSizes(nn.Module):
    """Kernels of several sizes, whose channels a list on the module tells (MixNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = unit(16, 28, 1)
        self.splits = [12, 10, 6]
        self.mixed = nn.ModuleList(
            nn.Conv2d(n, n, size, 1, size // 2, groups=n)
            for n, size in zip(self.splits, (3, 5, 7), strict=True)
        )
        self.leave = unit(28, 20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(self.enter(x), self.splits, 1)
        mixed = [layer(part) for layer, part in zip(self.mixed, parts, strict=True)]
        y: torch.Tensor = self.leave(torch.cat(mixed, 1))
        return y


class Twice(nn.Module):
    """One convolution that runs twice, between norms of its own, and once more for another map."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = torch.relu(norm(self.again(x)))
        return x


class Selective(nn.Module):
    """Branches that are stacked, weighed by a softmax over the branches, and summed up (SKNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([unit(16, 20), unit(16, 20, 5)])
        self.squeeze = nn.Linear(20, 12)
        self.weigh = nn.ModuleList(nn.Linear(12, 20) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.stack([branch(x) for branch in self.branches], 1)
        z = torch.relu(self.squeeze(maps.sum(1).mean((2, 3))))
        weights = torch.stack([weigh(z) for weigh in self.weigh], 1).softmax(1)
        return (maps * weights[..., None, None]).sum(1)


class Transposed(nn.Module):
    """A transposed convolution between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 12, 4, 2, 1)
        self.down = unit(12, 20, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.relu(self.up(x)))
        return y


BRANCHING_NETWORKS = {
    "residual over concat": lambda: Classifier(16, ResidualOverConcat(), 32),
    "inception": lambda: Classifier(16, nn.Sequential(Inception(16), Inception(32)), 32),
    "cross stage": lambda: Classifier(16, CrossStage(), 24),
    "ghost": lambda: Classifier(16, nn.Sequential(Ghost(), unit(24, 16)), 16),
    "shuffle": lambda: Classifier(16, Shuffle(), 16),
    "dense": lambda: Classifier(16, Dense(), 40),
    "c2f": lambda: Classifier(16, C2f(), 20),
    "fixed split": lambda: Classifier(16, FixedSplit(), 22),
    "kept sizes": lambda: Classifier(16, KeptSizes(), 20),
    "twice": lambda: Classifier(16, Twice(), 16),
    "selective": lambda: Classifier(16, Selective(), 20),
    "transposed": lambda: Classifier(16, Transposed(), 20),
}
"""What makes each, by what it is like; all take `(n, 3, 32, 32)` images."""
