"""Times the compiled networks of finished runs in turns on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cprune_rl.compiler.deploy.time_networks import Rounds, SideBySide, compare_libraries
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
    """Time compiled networks in turns and compare each with the first.

    Args:
        device: as the user names it.
        networks: libraries, or run folders, whose `lib.so` is meant.
        input_shape: of one batch, e.g. "1,3,32,32"; None to read it off the run folders.
        n_rounds: each network is timed once in each.

    Raises:
        ConfigError: there are fewer than two networks, a file is not there, the shape is none, or
            the device is a recording.
        DeviceError: the device is gone, or a network was not compiled for it.
    """
    if isinstance(parse_device(device), RecordedSpec):
        raise ConfigError(
            f"{device!r} is a recording: compiled networks run on a device only, "
            "local or rpc://host:port/key"
        )
    if len(networks) < 2:
        raise ConfigError(
            "give two networks or more: the first is what the others are compared with"
        )
    libraries = _named([_library(path) for path in networks])
    shape = _shape_of(libraries) if input_shape is None else _parse_shape(input_shape)
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
            f"no compiled network: {library} is not there. A run folder of `cprune-rl train` "
            "on a device has lib.so and dense.so."
        )
    return library


def _named(libraries: Sequence[Path]) -> dict[str, Path]:
    """Name libraries by their files, and by as many folders as it takes to tell them apart."""
    paths = [path.resolve().with_suffix("") for path in libraries]
    for n_parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-n_parts:]) for path in paths]
        if len(set(names)) == len(libraries):
            return dict(zip(names, libraries, strict=True))
    raise ConfigError(
        "a network is given twice: the first is timed against itself anyway, for the noise floor"
    )


def _parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(
            f"--input-shape {text!r} is no shape: give whole numbers with commas, e.g. 1,3,32,32"
        )
    return tuple(int(part) for part in parts)


def _shape_of(libraries: Mapping[str, Path]) -> tuple[int, ...]:
    shapes = {_plan_beside(library).input_shape for library in libraries.values()}
    if len(shapes) > 1:
        raise ConfigError(
            f"the networks take different inputs: {', '.join(map(str, sorted(shapes)))}"
        )
    return shapes.pop()


def _plan_beside(library: Path) -> PlanFile:
    try:
        return PlanFile.read(library.parent)
    except PlanError as error:
        raise ConfigError(
            f"the input shape of {library} is not known, as no finished run is beside it: "
            "give --input-shape 1,3,32,32"
        ) from error
