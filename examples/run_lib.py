"""Runs a pruned network with TVM's runtime alone: `python examples/run_lib.py RUN`."""

import sys
from pathlib import Path

import numpy as np
import tvm
from tvm.relax import VirtualMachine

machine = VirtualMachine(tvm.runtime.load_module(str(Path(sys.argv[1]) / "lib.so")), tvm.cpu())
image = tvm.runtime.tensor(np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32))
print("logits", machine["main"](image).numpy().round(3))
