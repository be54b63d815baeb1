"""Builds the shared libraries that are sent to a device."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.compiler.devices.target import require_linker
from cprune_rl.core.machine_failures import machine_failure, remedy
from cprune_rl.core.protocols import Artifact
from cprune_rl.errors import ToolchainError

__all__ = ["build_library", "cannot_build", "export_library"]

# How TVM's message begins; what the linker printed and the command line follow.
_LINKER_FAILED = "Compilation error:"


def build_library(
    module: tvm.IRModule, target: tvm.target.Target, path: Path, linker: str | None = None
) -> Artifact:
    """Compile a scheduled function into a shared library.

    Args:
        module: one function named `main`.
        target: what to compile for.
        path: library to write.
        linker: compiler that links; None for the one that fits the target.

    Raises:
        RuntimeError: the compiler refused it.
        ToolchainError: no compiler links for the target, or the machine cannot build anything.
    """
    arguments = ArgInfo.from_entry_func(module, remove_preproc=True)
    export_library(tvm.compile(module, target=target), path, require_linker(target, linker))
    shapes = tuple(tuple(int(length) for length in argument.shape) for argument in arguments)
    return Artifact(
        path=str(path), shapes=shapes, dtypes=tuple(str(argument.dtype) for argument in arguments)
    )


def export_library(
    executable: tvm.runtime.Executable, path: Path, linker: str | None = None
) -> None:
    """Link what `tvm.compile` gave into a shared library.

    Args:
        executable: compiled.
        path: library to write.
        linker: compiler that links; None for this machine's.

    Raises:
        RuntimeError: the linker refused it; the message is the first line that it printed.
        ToolchainError: the machine cannot build anything, or the linker was killed.
    """
    try:
        executable.export_library(str(path), **({} if linker is None else {"cc": linker}))
    except (OSError, MemoryError) as error:
        raise cannot_build(f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if not str(error).startswith(_LINKER_FAILED):
            raise
        output = str(error).removeprefix(_LINKER_FAILED).partition("\nCommand line:")[0].strip()
        # A linker that is killed prints nothing.
        if not output or machine_failure(output) is not None:
            raise cannot_build(output or "the linker was ended") from error
        raise RuntimeError(output.splitlines()[0]) from error


def cannot_build(reason: str) -> ToolchainError:
    """Make the error of a machine at fault: it must not be kept as the failure of a schedule."""
    advice = remedy(reason, f"{tempfile.gettempdir()} (TMPDIR)")
    return ToolchainError(f"programs cannot be built or loaded here: {reason}. {advice}")
