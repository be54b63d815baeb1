"""Gives a device's compilation target, and finds the toolchain that it needs."""

from __future__ import annotations

import importlib
import shutil
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
import tvm.s_tir
from tvm.target import codegen

from cprune_rl.errors import ConfigError, ToolchainError, UnknownNameError, last_line

__all__ = [
    "host_cpu",
    "host_triple",
    "is_processor",
    "load_cpu_intrinsics",
    "make_target",
    "require_cxx_compiler",
    "require_linker",
    "same_architecture",
    "target_from_options",
    "vector_width",
]

# Pooling asks for these rules by name; TVM warns of each candidate that a CPU has none.
_GPU_RULES = ("pool_max", "pool_avg", "adaptive_pool_max", "adaptive_pool_avg")
# float32 lanes of the processors' features, widest first.
_LANES = ((16, {"avx512f"}), (8, {"avx"}), (4, {"sse2", "neon", "sve", "v"}))


def host_cpu() -> str:
    """Return LLVM's name of this processor, such as `znver4`."""
    return str(codegen.llvm_get_system_cpu())


def host_triple() -> str:
    """Return LLVM's name of this kind of machine, such as `x86_64-linux-gnu`."""
    return str(codegen.llvm_get_system_triple())


def is_processor(mcpu: str, triple: str | None = None) -> bool:
    """Tell whether LLVM compiles for a processor of this name.

    Args:
        mcpu: its name.
        triple: of its machine; None for this one's.
    """
    return bool(codegen.llvm_is_valid_cpu(mcpu, triple or host_triple()))


def make_target(n_threads: int, mcpu: str | None = None) -> tvm.target.Target:
    """Make an LLVM target for this machine, or for another processor of its kind.

    Raises:
        UnknownNameError: LLVM knows no such processor.
    """
    return target_from_options({"kind": "llvm", "mcpu": mcpu or host_cpu(), "num-cores": n_threads})


def target_from_options(options: Mapping[str, Any]) -> tvm.target.Target:
    """Make TVM's target; LLVM's has one core where the options do not say.

    Args:
        options: `kind` and what TVM knows of it, such as `mtriple`, `mcpu`, `mattr`, `num-cores`.

    Raises:
        UnknownNameError: LLVM knows no such processor. It would take a generic one, and the device
            would be another to the cost cache.
        ConfigError: TVM knows no such target.
    """
    is_llvm = options["kind"] == "llvm"
    if is_llvm and "mcpu" in options:
        _check_processor(str(options["mcpu"]), str(options.get("mtriple") or host_triple()))
    try:
        return tvm.target.Target({"num-cores": 1, **options} if is_llvm else dict(options))
    except (ValueError, TypeError, RuntimeError) as error:
        reason = last_line(error)
        raise ConfigError(f"TVM knows no target {dict(options)}: {reason}") from error


def _check_processor(mcpu: str, triple: str) -> None:
    if is_processor(mcpu, triple):
        return
    # Asked for the processors of a triple that it does not know, LLVM ends this process.
    if not is_processor("generic", triple):
        raise ConfigError(
            f"LLVM knows no processor {mcpu!r} of machines {triple!r}: "
            "see that the triple is right, e.g. aarch64-linux-gnu"
        )
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    raise UnknownNameError("processor", mcpu, map(str, codegen.llvm_get_cpu_archlist(target)))


def vector_width(target: tvm.target.Target) -> int:
    """Return the float32 lanes of a vector register; 1 where none is known.

    The processor's features tell it: TVM's `llvm_get_vector_width` says 512 bits of every x86.
    """
    features = {str(f) for f in codegen.llvm_get_cpu_features(target)}
    return next((lanes for lanes, names in _LANES if features & names), 1)


def require_cxx_compiler() -> str:
    """Return the path of the compiler that links programs into shared libraries.

    Raises:
        ToolchainError: there is none.
    """
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return path
    raise ToolchainError(
        "no C++ compiler found (looked for g++, c++, clang++): programs cannot be linked. "
        "Install one, e.g. `apt-get install g++`."
    )


def require_linker(target: tvm.target.Target, name: str | None = None) -> str:
    """Return the compiler that links for a target; `TRIPLE-g++` for another kind of machine.

    Args:
        target: what programs are compiled for.
        name: the compiler to take instead.

    Raises:
        ToolchainError: it is not installed.
    """
    triple = str(target.attrs.get("mtriple", "") or "")
    if name is None and (not triple or same_architecture(triple, host_triple())):
        return require_cxx_compiler()
    name = name or f"{triple}-g++"
    if shutil.which(name):
        return name
    remedy = "your board's toolchain"
    if name.endswith("-g++"):
        remedy = f"apt-get install g++-{name.removesuffix('-g++').replace('_', '-')}"
    raise ToolchainError(
        f"the cross-compiler {name!r} is not installed: programs for {triple or 'this device'} "
        f"cannot be linked. Install it (e.g. {remedy}) or name another with cc=."
    )


def same_architecture(triple: str, other: str) -> bool:
    """Tell whether two triples name machines that run each other's programs."""
    first, second = (
        t.partition("-")[0].replace("amd64", "x86_64").replace("arm64", "aarch64")
        for t in (triple, other)
    )
    return first == second


def load_cpu_intrinsics() -> None:
    """Register the tensor intrinsics of CPUs, and only those.

    MetaSchedule imports `tvm.s_tir.tensor_intrin` on first use, which parses every GPU's intrinsics
    for about 20 seconds in each process. A CPU's design space needs two modules of it, whether its
    instructions are used or not.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    package = types.ModuleType(name)
    package.__path__ = [str(Path(next(iter(tvm.s_tir.__path__))) / "tensor_intrin")]
    sys.modules[name] = package
    for module in ("x86", "arm_cpu"):
        importlib.import_module(f"{name}.{module}")
    for rule in _GPU_RULES:
        tvm.register_global_func(f"s_tir.meta_schedule.cpu.meta_schedule.{rule}", _leave_alone)


def _leave_alone(schedule: Any, _: Any) -> list[Any]:
    return [schedule]
