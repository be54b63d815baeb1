"""Runs a pruned network with TVM's runtime alone: `python examples/run_lib.py RUN`."""

import json
import sys
from pathlib import Path

import numpy as np
import tvm
from tvm.relax import VirtualMachine

run = Path(sys.argv[1])
shape = json.loads((run / "plan.json").read_text())["input_shape"]
machine = VirtualMachine(tvm.runtime.load_module(str(run / "lib.so")), tvm.cpu())
image = tvm.runtime.tensor(np.random.default_rng(0).random(shape, dtype=np.float32))
print("logits", machine["main"](image).numpy().round(3))
