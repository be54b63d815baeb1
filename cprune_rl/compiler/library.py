"""Shared libraries: what is sent to a device. Called by the devices, which know what to link with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tvm

from cprune_rl.compiler.target import require_linker
from cprune_rl.contracts import Artifact

__all__ = ["build", "export_library"]


def export_library(executable: tvm.runtime.Executable, path: Path, linker: str | None = None) -> None:
    """Links what `tvm.compile` gave into a shared library.

    Args:
        executable: compiled.
        path: library to write.
        linker: compiler that links; None for this machine's.
    """
    executable.export_library(str(path), **({} if linker is None else {"cc": linker}))


def build(module: tvm.IRModule, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], target: tvm.target.Target, path: Path, linker: str | None = None) -> Artifact:
    """Compiles a scheduled function into a shared library.

    Args:
        module: one function named `main`.
        shapes: of its arguments, outputs last.
        dtypes: of its arguments.
        target: what to compile for.
        path: library to write.
        linker: compiler that links; None for the one that fits the target.

    Raises:
        RuntimeError: the compiler refused it.
        ToolchainError: there is no compiler that links for the target.
    """
    export_library(tvm.compile(module, target=target), path, require_linker(target, linker))
    return Artifact(str(path), tuple(shapes), tuple(dtypes))
