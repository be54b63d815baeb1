"""Shared libraries: what is sent to a device.

Called by the devices, which know what to link with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tvm

from cprune_rl.compiler.devices.target import require_linker
from cprune_rl.core.protocols import Artifact
from cprune_rl.errors import ToolchainError

__all__ = ["build", "export_library"]

# how TVM's message begins; what the linker printed and the command line follow
_LINKER_FAILED = "Compilation error:"
_NO_ROOM = (
    "no space left",
    "quota exceeded",
    "killed",
    "signal 9",
    "cannot allocate memory",
    "memory exhausted",
    "out of memory",
)


def export_library(
    executable: tvm.runtime.Executable, path: Path, linker: str | None = None
) -> None:
    """Links what `tvm.compile` gave into a shared library.

    Args:
        executable: compiled.
        path: library to write.
        linker: compiler that links; None for this machine's.

    Raises:
        RuntimeError: the linker refused it; the message is what it said first.
        ToolchainError: this machine has no room to build anything, or ended the linker.
    """
    try:
        executable.export_library(str(path), **({} if linker is None else {"cc": linker}))
    except OSError as error:
        raise _no_room(str(error)) from error
    except RuntimeError as error:
        if not str(error).startswith(_LINKER_FAILED):
            raise
        said = str(error).removeprefix(_LINKER_FAILED).partition("\nCommand line:")[0].strip()
        if not said or any(
            sign in said.lower() for sign in _NO_ROOM
        ):  # one that is killed says nothing
            raise _no_room(said or "the linker was ended") from error
        raise RuntimeError(said.splitlines()[0]) from error


def _no_room(reason: str) -> ToolchainError:
    """It says nothing about the program, so it must not be kept as its failure."""
    return ToolchainError(
        f"programs cannot be built here: {reason}. Make room on the disk and in memory: what was measured is kept."
    )


def build(
    module: tvm.IRModule,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    target: tvm.target.Target,
    path: Path,
    linker: str | None = None,
) -> Artifact:
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
        ToolchainError: there is no compiler that links for the target, or no room to build
            anything.
    """
    export_library(tvm.compile(module, target=target), path, require_linker(target, linker))
    return Artifact(str(path), tuple(shapes), tuple(dtypes))
