"""The compilation target of a device, and the toolchain it needs."""

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

from cprune_rl.errors import ConfigError, ToolchainError, UnknownNameError

__all__ = [
    "host_cpu",
    "host_triple",
    "is_processor",
    "load_cpu_intrinsics",
    "make_target",
    "require_cxx_compiler",
    "require_linker",
    "same_architecture",
    "target_of",
    "vector_width",
]

_GPU_RULES = (
    "pool_max",
    "pool_avg",
    "adaptive_pool_max",
    "adaptive_pool_avg",
)  # pooling asks for them by name; TVM warns of each candidate that a CPU has none
_LANES = ((16, {"avx512f"}), (8, {"avx"}), (4, {"sse2", "neon", "sve", "v"}))  # widest first


def host_cpu() -> str:
    """LLVM's name of this processor, such as `znver4`."""
    return str(codegen.llvm_get_system_cpu())


def host_triple() -> str:
    """This machine as LLVM names it, such as `x86_64-linux-gnu`."""
    return str(codegen.llvm_get_system_triple())


def is_processor(mcpu: str, triple: str | None = None) -> bool:
    """Whether LLVM compiles for a processor of this name, on machines of a triple;

    None for this machine's.
    """
    return bool(codegen.llvm_is_valid_cpu(mcpu, triple or host_triple()))


def make_target(n_threads: int, mcpu: str | None = None) -> tvm.target.Target:
    """An LLVM target for this machine, or for another processor of its kind.

    Raises:
        UnknownNameError: LLVM knows no such processor.
    """
    return target_of({"kind": "llvm", "mcpu": mcpu or host_cpu(), "num-cores": n_threads})


def target_of(options: Mapping[str, Any]) -> tvm.target.Target:
    """TVM's target of its options; for LLVM one core where they do not say.

    Args:
        options: `kind` and what TVM knows of it, such as `mtriple`, `mcpu`, `mattr`, `num-cores`.

    Raises:
        UnknownNameError: LLVM knows no such processor: it would take a generic one, and the device
            would be another to the cost cache.
        ConfigError: TVM knows no such target.
    """
    is_llvm = options["kind"] == "llvm"
    if is_llvm and "mcpu" in options:
        _check_processor(str(options["mcpu"]), str(options.get("mtriple") or host_triple()))
    try:
        return tvm.target.Target({"num-cores": 1, **options} if is_llvm else dict(options))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"TVM knows no target {dict(options)}: {str(error).strip().splitlines()[-1][:300]}"
        ) from error


def _check_processor(mcpu: str, triple: str) -> None:
    if is_processor(mcpu, triple):
        return
    if not is_processor(
        "generic", triple
    ):  # asked for the processors of a triple that it does not know, LLVM ends this process
        raise ConfigError(
            f"LLVM knows no processor {mcpu!r} of machines {triple!r}: see that the triple is right, e.g. aarch64-linux-gnu"
        )
    raise UnknownNameError(
        "processor",
        mcpu,
        map(
            str,
            codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": triple})),
        ),
    )


def vector_width(target: tvm.target.Target) -> int:
    """float32 lanes of one vector register; 1 where the target has none that is known.

    Read off the processor's features: TVM's own `llvm_get_vector_width` says 512 bits of every x86.
    """
    features = {str(f) for f in codegen.llvm_get_cpu_features(target)}
    return next((lanes for lanes, names in _LANES if features & names), 1)


def require_cxx_compiler() -> str:
    """Path of the compiler that links programs into shared libraries.

    Raises:
        ToolchainError: there is none.
    """
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return path
    raise ToolchainError(
        "no C++ compiler found (looked for g++, c++, clang++): programs cannot be linked. Install one, e.g. `apt-get install g++`."
    )


def require_linker(target: tvm.target.Target, name: str | None = None) -> str:
    """The compiler that links programs for a target:

    `TRIPLE-g++` where that is another kind of machine.

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
    package = (
        f"apt-get install g++-{name.removesuffix('-g++').replace('_', '-')}"
        if name.endswith("-g++")
        else "your board's toolchain"
    )
    raise ToolchainError(
        f"the cross-compiler {name!r} is not installed: programs for {triple or 'this device'} cannot be linked. Install it (e.g. {package}) or name another with cc=."
    )


def same_architecture(triple: str, other: str) -> bool:
    """Whether two triples such as `x86_64-linux-gnu` name machines that run each other's programs."""
    first, second = (
        t.split("-")[0].replace("amd64", "x86_64").replace("arm64", "aarch64")
        for t in (triple, other)
    )
    return first == second


def load_cpu_intrinsics() -> None:
    """Registers the tensor intrinsics of CPUs, and only those.

    MetaSchedule imports `tvm.s_tir.tensor_intrin` on first use, which parses every GPU's intrinsics
    for about 20 seconds in each process. CPU targets need two modules of it: without them no
    design space can be made, be their instructions used or not.
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
