"""Writes a network of one's own to try: `mynet.py`, its weights `w.pt`, and images `mine.npz`.

    python examples/make_own_network.py
    cprune-rl prune --model mynet.py:build --weights w.pt --data npz:mine.npz --floor -0.01

The images are drawn shapes of ten classes. The training takes about a minute on two cores.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cprune_rl.accuracy.data.generated import draw_contours

NETWORK = '''"""A small residual network: `build` gives it with random weights."""

from torch import nn


class Block(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1, 2)

    def forward(self, x):
        inner = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(inner)) + self.skip(x)).relu()


def build(n_classes):
    blocks = [Block(3, 24), Block(24, 48), Block(48, 64)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n_classes)]
    return nn.Sequential(*blocks, *head)
'''

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", type=int, default=30_000)
parser.add_argument("--steps", type=int, default=1500)
options = parser.parse_args()

torch.manual_seed(0)
Path("mynet.py").write_text(NETWORK)
drawn = draw_contours(options.images, seed=0)
np.savez("mine.npz", x=drawn.images, y=drawn.labels)

namespace: dict[str, object] = {}
exec(NETWORK, namespace)
model: nn.Module = namespace["build"](10)  # type: ignore[operator]
images = torch.from_numpy(drawn.images)
labels = torch.from_numpy(drawn.labels)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
for _ in range(options.steps):
    batch = torch.randint(len(images), (64,))
    loss = nn.functional.cross_entropy(model(images[batch] / 255), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
torch.save(model.state_dict(), "w.pt")
print(f"wrote mynet.py, w.pt and mine.npz; loss {loss.item():.2f} after {options.steps} steps")
