"""Compiled networks of finished runs, timed in turns on a device.

Called by `cprune-rl device compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cprune_rl.compiler.deploy.build import Rounds, SideBySide, compare_libraries
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.errors import ConfigError, PlanError
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.surgery import PlanFile

__all__ = ["compare_networks"]


def compare_networks(
    device: str,
    networks: Sequence[Path],
    input_shape: str | None,
    n_rounds: int,
    progress: ProgressLog,
) -> SideBySide:
    """Times compiled networks in turns and compares each with the first.

    Args:
        device: where, as the user names it.
        networks: run folders, whose `lib.so` is meant, or libraries.
        input_shape: of one batch, e.g. "1,3,32,32"; None to read it off the run folders.
        n_rounds: each network is timed once in each.
        progress: told what is going on.

    Raises:
        ConfigError: fewer than two networks, a file that is not there, a shape that is none, a
            recorded device.
        DeviceError: the device is gone, or a network was not compiled for it.
    """
    if isinstance(parse_device(device), RecordedSpec):
        raise ConfigError(
            f"{device!r} is a recording: compiled networks run on a device only, local or rpc://host:port/key"
        )
    if len(networks) < 2:
        raise ConfigError(
            "give two networks or more: the first is what the others are compared with"
        )
    libraries = _named([_library(path) for path in networks])
    shape = _input_shape(list(libraries.values()), input_shape)
    with (
        open_device(device) as opened,
        progress.track("Timing them in turns", n_rounds) as advance,
    ):
        rounds = Rounds(n_rounds, on_round=advance)
        return compare_libraries(opened, libraries, shape, rounds=rounds)


def _library(path: Path) -> Path:
    library = path / "lib.so" if path.is_dir() else path
    if not library.is_file():
        raise ConfigError(
            f"no compiled network: {library} is not there. A run folder of `cprune-rl train` on "
            "a device has lib.so and dense.so."
        )
    return library


def _named(libraries: Sequence[Path]) -> dict[str, Path]:
    """Libraries by their file names, or with as many of their folders as it takes to tell them
    apart.
    """
    for n_parts in range(1, max(len(p.resolve().parts) for p in libraries) + 1):
        named = {"/".join(p.resolve().with_suffix("").parts[-n_parts:]): p for p in libraries}
        if len(named) == len(libraries):
            return named
    raise ConfigError(
        "a network is given twice: the first is timed against itself anyway, for the noise floor"
    )


def _input_shape(libraries: Sequence[Path], given: str | None) -> tuple[int, ...]:
    if given is not None:
        parts = given.split(",")
        if not parts or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
            raise ConfigError(
                f"--input-shape {given!r} is no shape: give whole numbers with commas, "
                "e.g. 1,3,32,32"
            )
        return tuple(int(p) for p in parts)
    found = {_plan(p).input_shape for p in libraries}
    if len(found) > 1:
        raise ConfigError(
            f"the networks take different inputs: {', '.join(map(str, sorted(found)))}"
        )
    return found.pop()


def _plan(library: Path) -> PlanFile:
    try:
        return PlanFile.read(library.parent)
    except PlanError as error:
        raise ConfigError(
            f"the input shape of {library} is not known, as no finished run is beside it: "
            "give --input-shape 1,3,32,32"
        ) from error
