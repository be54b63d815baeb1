"""Small networks as users write them, each with something that is awkward to export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

N_CLASSES = 5


def unit(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


class Headed(nn.Module):
    """Begins with a layer of 8 channels, and ends with a classifier of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 8, stride=2)
        self.fc = nn.Linear(16, N_CLASSES)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.middle(self.stem(x)).mean((2, 3)))
        return logits


# --- norms


class TwiceWithOwnNorms(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(8, 8, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.last = unit(8, 16, stride=2)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = torch.relu(norm(self.again(x)))
        return self.last(x)  # type: ignore[no-any-return]


class TwiceWithOneNorm(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.again = unit(8, 8)
        self.last = unit(8, 16, stride=2)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.again(self.again(x)))  # type: ignore[no-any-return]


class OneNormForTwo(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(8, 16, 3, 1, 1)
        self.right = nn.Conv2d(8, 16, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.left(x))) * self.norm(self.right(x))  # type: ignore[no-any-return]


class ReadBeforeItsNorm(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, 1, 1)
        self.norm = nn.BatchNorm2d(16)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return torch.relu(self.norm(x)) + x


class NormsWithoutScale(Headed):
    """Norms before and after convolutions, the first over the image itself, none with a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3, affine=False)
        self.before = nn.BatchNorm2d(8, affine=False)
        self.conv = nn.Conv2d(8, 16, 3, 1, 1, bias=False)
        self.after = nn.BatchNorm2d(16, affine=False)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(functional.max_pool2d(x, 3, 1, 1))
        return torch.relu(self.after(self.conv(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.first(x))


class OtherNorms(Headed):
    """Norms that are computed for each image, with a scale and without."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(n, 16, 3, 1, 1) for n in (8, 16, 16, 16)])
        self.norms = nn.ModuleList(
            [
                nn.InstanceNorm2d(16, affine=True),
                nn.InstanceNorm2d(16),
                nn.GroupNorm(4, 16),
                nn.GroupNorm(1, 16, affine=False),
            ]
        )

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x


class NormsOfVectors(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.hidden(self.stem(x).mean((2, 3)))))
        return self.fc(x)  # type: ignore[no-any-return]


class NormByTheBatch(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, 1, 1)
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


# --- what forward does


class Switched(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.last = unit(8, 16)

    def forward(self, x: torch.Tensor, with_features: bool = False) -> torch.Tensor:
        maps = self.last(self.stem(x))
        logits = self.fc(maps.mean((2, 3)))
        return (logits, maps) if with_features else logits  # type: ignore[return-value]


class Asserting(Headed):
    """Checks its input, and pads maps of an odd size."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Conv2d(8, 16, 2, 2), nn.BatchNorm2d(16), nn.ReLU())

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 2:
            x = functional.pad(x, (0, 1, 0, 1))
        return self.last(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3, "colour images only"
        return super().forward(x)


class Reordered(Headed):
    """Reads BGR for RGB, and scales by constants that are in no state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.last = unit(8, 16)
        self.register_buffer("means", torch.tensor([0.1, 0.2, 0.3]), persistent=False)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, [2, 1, 0]] - self.means[:, None, None]
        return super().forward(x / torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1, 1))


class Keeping(Headed):
    """Keeps its map on the module, and older ones in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.last = unit(8, 16)
        self.features: torch.Tensor | None = None
        self.history: list[torch.Tensor] = []

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        self.features = self.last(x)
        self.history = [self.features]
        return self.features


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3, 8, stride=2), nn.MaxPool2d(2), unit(8, 16, stride=2))
        self.fc = nn.Linear(16 * 4, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.fc(x.view(x.size(0), -1))  # type: ignore[no-any-return]


# --- layers


def padded() -> nn.Module:
    """All modes of padding, one on one side only."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 8, 3, 2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 5, 1, 2, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 1, 1, padding_mode="circular"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )


def weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        normed(nn.Conv2d(3, 8, 3, 2, 1)),
        nn.ReLU(),
        normed(nn.Conv2d(8, 8, 3, 1, 1, bias=False)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1)),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )


class Attention(nn.Module):
    """CBAM: channels by two poolings and one perceptron, then places by the channels."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(n_channels, n_channels // 4, 1, bias=False)
        self.up = nn.Conv2d(n_channels // 4, n_channels, 1, bias=False)
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def scores(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.down(pooled)))  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        largest = self.scores(functional.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(self.scores(functional.adaptive_avg_pool2d(x, 1)) + largest)
        both = torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.place(both))


def attentive() -> nn.Module:
    return nn.Sequential(
        unit(3, 8, stride=2),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        Attention(16),
        nn.ReLU(),
        unit(16, 24),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 4, N_CLASSES),
    )


class Spotter(nn.Module):
    """A convolution over all rows, then convolutions along the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 8, (16, 3), (1, 2), (0, 1), bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.slide = nn.Conv1d(8, 8, 5, 2, 2, groups=8, bias=False)
        self.norm_slide = nn.BatchNorm1d(8)
        self.mix = nn.Conv1d(8, 16, 1, bias=False)
        self.norm_mix = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.front(x))).squeeze(2)
        x = torch.relu(self.norm_slide(self.slide(x)))
        return self.fc(torch.relu(self.norm_mix(self.mix(x))).mean(-1))  # type: ignore[no-any-return]


def transposed() -> nn.Module:
    return nn.Sequential(
        unit(3, 8, stride=2),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, 2, groups=4, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )


class Pieces(Headed):
    """Res2Net's: pieces of one shape, each but the last through a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = unit(8, 16, 1)
        self.convs = nn.ModuleList([unit(4, 4) for _ in range(3)])

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(self.widen(x), 4, 1)
        done = [self.convs[0](pieces[0])]
        for conv, piece in zip(list(self.convs)[1:], pieces[1:], strict=False):
            done.append(conv(done[-1] + piece))
        return torch.cat([*done, pieces[3]], 1)


class MixedKernels(Headed):
    """MixNet's: depthwise convolutions of several kernels, each over a part of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = unit(8, 20, 1)
        self.sizes = [8, 6, 6]
        self.parts = nn.ModuleList(
            [
                nn.Conv2d(n, n, kernel, 1, kernel // 2, groups=n, bias=False)
                for n, kernel in zip(self.sizes, (3, 5, 7), strict=True)
            ]
        )
        self.norm = nn.BatchNorm2d(20)
        self.last = unit(20, 16, 1)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(self.widen(x), self.sizes, 1)
        x = torch.cat([part(piece) for part, piece in zip(self.parts, pieces, strict=True)], 1)
        return self.last(torch.relu(self.norm(x)))  # type: ignore[no-any-return]


class SamePadded(nn.Conv2d):
    """TensorFlow's padding: as much as the size of the map needs, one more at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding = []
        for length in reversed(x.shape[2:]):
            needed = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [needed // 2, needed - needed // 2]
        return self._conv_forward(functional.pad(x, padding), self.weight, self.bias)


def same_padded() -> nn.Module:
    return nn.Sequential(
        SamePadded(3, 8, 3, 2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        SamePadded(8, 8, 5, 2, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a convolution run twice with norms of its own": TwiceWithOwnNorms,
    "a convolution and its norm run twice": TwiceWithOneNorm,
    "one norm for two convolutions": OneNormForTwo,
    "a convolution read before its norm": ReadBeforeItsNorm,
    "norms without scale": NormsWithoutScale,
    "norms of each image": OtherNorms,
    "norms of vectors": NormsOfVectors,
    "a switch in forward": Switched,
    "asserts in forward": Asserting,
    "constants in forward": Reordered,
    "maps kept on the module": Keeping,
    "a view of maps": Viewing,
    "modes of padding": padded,
    "computed weights": weight_normed,
    "attention by two poolings": attentive,
    "convolutions along time": Spotter,
    "transposed convolutions": transposed,
    "pieces of one shape": Pieces,
    "kernels of several sizes": MixedKernels,
    "padding as TensorFlow does": same_padded,
}
EXAMPLE = torch.zeros(1, 3, 16, 16)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network in evaluation mode, with statistics that are not those of a fresh norm."""
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        mean = getattr(module, "running_mean", None)
        variance = getattr(module, "running_var", None)
        if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
            mean.normal_(0, 0.3)
            variance.uniform_(0.5, 1.5)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model
