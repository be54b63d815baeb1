"""The compilation target of a device, and the toolchain it needs."""

from __future__ import annotations

import importlib
import shutil
import sys
import types
from pathlib import Path

import tvm
import tvm.s_tir
from tvm.target import codegen

from cprune_rl.errors import ToolchainError

__all__ = ["host_cpu", "load_cpu_intrinsics", "make_target", "require_cxx_compiler", "vector_width"]


def host_cpu() -> str:
    """LLVM's name of this processor, such as `znver4`."""
    return str(codegen.llvm_get_system_cpu())


def make_target(n_threads: int, mcpu: str | None = None) -> tvm.target.Target:
    """An LLVM target for this machine, or for another processor of its kind."""
    return tvm.target.Target({"kind": "llvm", "mcpu": mcpu or host_cpu(), "num-cores": n_threads})


def vector_width(target: tvm.target.Target) -> int:
    """float32 lanes of one vector register."""
    with target:
        return int(codegen.llvm_get_vector_width(target)) // 32


def require_cxx_compiler() -> str:
    """Path of the compiler that links programs into shared libraries.

    Raises:
        ToolchainError: there is none.
    """
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return path
    raise ToolchainError("no C++ compiler found (looked for g++, c++, clang++): programs cannot be linked. Install one, e.g. `apt-get install g++`.")


def load_cpu_intrinsics() -> None:
    """Registers the tensor intrinsics of CPUs, and only those.

    MetaSchedule imports `tvm.s_tir.tensor_intrin` on first use, which parses every GPU's intrinsics
    for about 20 seconds in each process. A CPU target needs one module of it.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    package = types.ModuleType(name)
    package.__path__ = [str(Path(next(iter(tvm.s_tir.__path__))) / "tensor_intrin")]
    sys.modules[name] = package
    importlib.import_module(f"{name}.x86")
