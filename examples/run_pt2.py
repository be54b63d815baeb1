"""Runs a pruned network with torch alone: `python examples/run_pt2.py RUN`."""

import json
import sys
from pathlib import Path

import torch

run = Path(sys.argv[1])
shape = json.loads((run / "plan.json").read_text())["input_shape"]
network = torch.export.load(run / "model.pt2").module()
with torch.no_grad():
    print("logits", network(torch.rand(shape)).numpy().round(3))
