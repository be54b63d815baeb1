"""Runs a pruned network with torch alone: `python examples/run_pt2.py RUN`."""

import sys
from pathlib import Path

import torch

network = torch.export.load(Path(sys.argv[1]) / "model.pt2").module()
image = torch.rand(1, 3, 32, 32)
with torch.no_grad():
    print("logits", network(image).numpy().round(3))
