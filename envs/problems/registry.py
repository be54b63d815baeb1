"""Recorded problems by name: the packaged ones, those that a user added, and anybody's files.

A recorded problem needs neither compiler nor device nor images: its file holds the network, the
tasks that were timed, and a loss model fitted to an oracle. A packaged one is called
`<model>@<device class>`. A name may end in a floor: `resnet8@znver4-2t:-0.02`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cprune_rl.core.atomic_files import write_bytes
from cprune_rl.core.folders import problems_folder
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.recording_file import Recording, read_recording_file, save_recorded
from cprune_rl.errors import DataError, UnknownNameError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.recorded import RecordedLatency

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    _File = TypeVar("_File", Path, Traversable)

__all__ = [
    "CLASS_ORDER",
    "LIVE_ENDING",
    "RecordedSummary",
    "Recording",
    "add_problem",
    "check_new_name",
    "describe_recorded",
    "full_name",
    "has_schemes",
    "model_of",
    "open_recorded",
    "problems_folder",
    "read_recording",
    "recorded_names",
    "remove_problem",
    "save_recorded",
    "split_floor",
]

_PACKAGED = "cprune_rl.envs.recorded"
_DEFAULT = "resnet8"
# A model's name alone opens the first class that there is. Others come last, by name.
CLASS_ORDER = ("znver4-1t", "haswell-1t", "znver4-2t", "haswell-2t")
_ENDINGS = (".json.gz", ".json")  # of two files of one name the first counts
LIVE_ENDING = ".yaml"  # of a live problem's options, beside the recordings
_NOT_STATED = "not stated"
_NAME_WITH_FLOOR = re.compile(r"(?P<name>.+):(?P<floor>[+-]?\d*\.?\d+)")
_NEW_NAME = re.compile(r"[\w.+-]+@[\w.+-]+")


def open_recorded(
    name: str | None = None, floor: float | None = None, noise_seed: int | None = None
) -> Problem:
    """Open a recorded problem.

    Args:
        name: a packaged problem or one that was added, `resnet8@znver4-1t`; or a model alone, for
            the first class of `CLASS_ORDER`; or the path of a file. Each may end in a floor,
            `:-0.02`. None is `resnet8`.
        floor: replaces the recorded floor, and that of the name (see `resolve_floor`).
        noise_seed: latencies deviate by the recording's own uncertainty, as on a device (see
            `RecordedLatency`); None: they do not.

    Raises:
        UnknownNameError: no recording has that name, and no file.
        DataError: the file is damaged, no recorded problem, or of another format.
        FloorError: the floor is above the recorded accuracy.
    """
    bare_name, named_floor = split_floor(name or _DEFAULT)
    recording = read_recording(bare_name)
    network = recording.network
    interpolator = LatencyInterpolator(recording.costs)
    return Problem(
        name=recording.name,
        network=network,
        latency=RecordedLatency(network, interpolator, noise_seed),
        oracle=LossModelOracle(network, recording.loss_model, recording.dense_accuracy),
        loss_model=recording.loss_model,
        dense_accuracy=recording.dense_accuracy,
        floor=recording.floor_or(floor, named_floor),
        descriptor=recording.descriptor,
    )


def read_recording(name: str | None = None) -> Recording:
    """Read what a recording's file holds; the name and the errors are those of `open_recorded`."""
    found_name, file = _find(split_floor(name or _DEFAULT)[0])
    return read_recording_file(file, found_name)


def recorded_names(with_added: bool = False) -> list[str]:
    """List the packaged recordings by model and in the order of `CLASS_ORDER`.

    Args:
        with_added: list those that the user added, too.
    """
    names = {*_packaged(), *(_added() if with_added else ())}
    return sorted(names, key=_order)


def has_schemes(name: str) -> bool:
    """Say whether a recording knows the losses and latencies of layers that schemes prune."""
    return read_recording(name).has_schemes


def full_name(name: str) -> str:
    """Say what a name opens, without its floor: `resnet8@znver4-1t` for `resnet8:-0.02`.

    The path of a file is its name. Errors are those of `open_recorded`.
    """
    return _find(split_floor(name)[0])[0]


def model_of(name: str) -> str:
    """Give the model of a problem's name: `resnet8` for `resnet8@znver4-1t:-0.02`."""
    return split_floor(name)[0].partition("@")[0]


def split_floor(name: str) -> tuple[str, float | None]:
    """Split a name from the floor that it ends in; None where it has none."""
    match = _NAME_WITH_FLOOR.fullmatch(name)
    if match is None or Path(name).is_file():
        return name, None
    return match["name"], float(match["floor"])


def add_problem(file: Path, name: str | None = None) -> str:
    """Put a recording among the problems that have names.

    Args:
        file: a recording, or the folder of a run, which holds one.
        name: `<model>@<device class>`; None takes the file's own, and the network's of a run.

    Returns:
        Its name.

    Raises:
        UnknownNameError: there is no such file.
        DataError: it is no recording, the name is no such name, or it is taken.
    """
    source = file / "problem.json" if file.is_dir() else file
    if not source.is_file():
        raise UnknownNameError("recording", str(source), recorded_names(with_added=True))
    recording = read_recording_file(source, str(source))
    if name is None:
        name = _plain(_without_ending(file.resolve().name))
    if "@" not in name:
        name = f"{_plain(recording.network.name)}@{name}"
    check_new_name(name)
    folder = problems_folder()
    folder.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    ending = ".json.gz" if content[:2] == b"\x1f\x8b" else ".json"
    write_bytes(folder / f"{name}{ending}", content)
    return name


def _plain(name: str) -> str:
    """Turn a name into one that a problem may have: `net-build` of `/home/me/net.py:build`."""
    file = name.rpartition("/")[2].replace(".py:", "-")
    return re.sub(r"[^\w.+@-]+", "-", file).strip("-") or "network"


def check_new_name(name: str) -> None:
    """Refuse a name that no problem, recorded or live, may be given.

    Raises:
        DataError: it is no such name, or it is taken.
    """
    if _NEW_NAME.fullmatch(name) is None:
        raise DataError(
            f"a problem cannot be called {name!r}: give --name MODEL@CLASS, "
            "of letters, digits and . _ + -, e.g. resnet8@pixel8"
        )
    is_live = (problems_folder() / f"{name}{LIVE_ENDING}").exists()
    if is_live or name in recorded_names(with_added=True):
        raise DataError(
            f"there is a problem {name!r} already: give another --name, "
            "or remove it first if it is your own"
        )


def remove_problem(name: str) -> None:
    """Take a problem that was added away.

    Raises:
        UnknownNameError: none of that name was added.
    """
    added = _added()
    if name not in added:
        raise UnknownNameError("added problem", name, added)
    added[name].unlink()


@dataclass(frozen=True, kw_only=True)
class RecordedSummary:
    """What a recording says of itself.

    Attributes:
        name: opens it.
        problem: what was recorded.
        network: its model.
        data: the images that its accuracies are of.
        device: the device's fingerprint: processor, target, threads, timing.
        machine: what it was recorded on, in words.
        recorded: when, ISO 8601 in UTC.
        command: that made it.
        packages: their versions.
        n_tasks: tasks that were timed.
        dense_latency_s: of the dense network, the sum of its tasks.
    """

    name: str
    problem: str
    network: str
    data: str
    device: str
    machine: str
    recorded: str
    command: str
    packages: Mapping[str, str]
    n_tasks: int
    dense_latency_s: float

    @property
    def source(self) -> str:
        """One line for results that rest on it."""
        date = f", {self.recorded[:10]}" if self.recorded != _NOT_STATED else ""
        return (
            f"recorded: {self.name}, {self.n_tasks} tasks timed on {self.machine}{date} "
            f"({self.device})"
        )


def describe_recorded(name: str | None = None) -> RecordedSummary:
    """Say what machine a recording is of, when and how it was made.

    The name and the errors are those of `open_recorded`.
    """
    found_name, file = _find(split_floor(name or _DEFAULT)[0])
    recording = read_recording_file(file, found_name)
    provenance = recording.provenance
    packages = provenance.get("packages")
    network = recording.network
    latency_s = {workload.key: cost.latency_s for workload, cost in recording.costs}
    return RecordedSummary(
        name=found_name,
        problem=recording.name,
        network=network.name,
        data=str(provenance.get("data", _NOT_STATED)),
        device=str(provenance.get("device", _NOT_STATED)),
        machine=_machine(provenance),
        recorded=str(provenance.get("recorded", _NOT_STATED)),
        command=str(provenance.get("command", _NOT_STATED)),
        packages={str(k): str(v) for k, v in packages.items()}
        if isinstance(packages, dict)
        else {},
        n_tasks=len(recording.costs),
        dense_latency_s=math.fsum(latency_s[w.key] for w in network.workloads(network.dense)),
    )


def _machine(provenance: Mapping[str, Any]) -> str:
    """Put processor, cores, memory and system into words.

    The device's fingerprint names the processor where nothing else does.
    """
    fingerprint = str(provenance.get("device", ""))
    fields = dict(part.partition("=")[::2] for part in fingerprint.split(";"))
    words = [str(provenance.get("processor") or fields.get("cpu", _NOT_STATED))]
    for key, text in (("n_cores", "{} cores"), ("memory_gib", "{} GiB"), ("os", "{}")):
        if provenance.get(key):
            words.append(text.format(provenance[key]))
    return ", ".join(words)


def _packaged() -> dict[str, Traversable]:
    """Packaged files by name."""
    return _by_name(resources.files(_PACKAGED).iterdir())


def _added() -> dict[str, Path]:
    """The user's own files by name."""
    folder = problems_folder()
    return _by_name(folder.iterdir()) if folder.is_dir() else {}


def _by_name(files: Iterable[_File]) -> dict[str, _File]:
    """Of one name in both forms, the gzipped file counts."""
    named: dict[str, _File] = {}
    files = list(files)
    for ending in _ENDINGS:
        for file in files:
            if file.name.endswith(ending):
                named.setdefault(file.name.removesuffix(ending), file)
    return named


def _without_ending(file_name: str) -> str:
    ending = next((ending for ending in _ENDINGS if file_name.endswith(ending)), "")
    return file_name.removesuffix(ending)


def _order(name: str) -> tuple[str, int, str]:
    model, _, device_class = name.partition("@")
    is_listed = device_class in CLASS_ORDER
    place = CLASS_ORDER.index(device_class) if is_listed else len(CLASS_ORDER)
    return model, place, device_class


def _find(name: str) -> tuple[str, Traversable]:
    """Find a recording's full name, or its path as given, and its file."""
    if Path(name).is_file():
        return name, Path(name)
    files: dict[str, Traversable] = {**_added(), **_packaged()}
    of_model = sorted((full for full in files if model_of(full) == name), key=_order)
    if name not in files and not of_model:
        raise UnknownNameError("recorded problem", name, {*files, *map(model_of, files)})
    full = name if name in files else of_model[0]
    return full, files[full]
