"""Recorded problems by name: the packaged ones, those that a user added, and anybody's files.

A recorded problem needs neither compiler nor device nor images: its file holds the network's groups
and subgraphs,
the measured tasks, and the loss model fitted to an oracle. The packaged ones are `<model>@<device
class>`. A name may
end in a floor: `resnet8@znver4-2t:-0.02`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from platformdirs import user_data_path

from cprune_rl.envs.problem import Problem, resolve_floor
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
    "open_recorded",
    "problems_folder",
    "read_recording",
    "recorded_names",
    "remove_problem",
    "save_recorded",
    "without_floor",
]

_PACKAGED = "cprune_rl.envs.recorded"
_DEFAULT = "resnet8"
_ENDINGS = (".json.gz", ".json")
CLASS_ORDER = (
    "znver4-1t",
    "haswell-1t",
    "znver4-2t",
    "haswell-2t",
)  # a model's name alone opens the first that there is; classes not named here come last, by name
_NOT_STATED = "not stated"
_FLOOR = re.compile(r"(?P<name>.+):(?P<floor>[+-]?\d*\.?\d+)")
LIVE_ENDING = ".yaml"  # of a live problem's options, which lie beside the recordings
_OWN_NAME = re.compile(r"[\w.+-]+@[\w.+-]+")


def open_recorded(
    name: str | None = None, floor: float | None = None, noise_seed: int | None = None
) -> Problem:
    """Opens a recorded problem.

    Args:
        name: a packaged one or one that was added, `resnet8@znver4-1t`, or `resnet8` for the first
            class of
            `CLASS_ORDER`; or the path of a file, gzipped or not; each may end in a floor, `:-0.02`.
            None is `resnet8`.
        floor: replaces the recorded floor, and that of the name (see `resolve_floor`).
        noise_seed: latencies deviate by the recording's own uncertainty, as on a device; None: they
            do not (see `RecordedLatency`).

    Raises:
        UnknownNameError: no recording of that name, and no such file.
        DataError: the file is damaged, no recorded problem, or of another format.
        FloorError: the floor is above the recorded accuracy.
    """
    name, asked = without_floor(name or _DEFAULT)
    r = read_recording(name)
    latency = RecordedLatency(r.network, LatencyInterpolator(r.costs), noise_seed)
    oracle = LossModelOracle(r.network, r.loss_model, r.dense_accuracy)
    absolute = resolve_floor(
        next(f for f in (floor, asked, r.floor) if f is not None), r.dense_accuracy
    )
    return Problem(
        name=r.name,
        network=r.network,
        latency=latency,
        oracle=oracle,
        loss_model=r.loss_model,
        dense_accuracy=r.dense_accuracy,
        floor=absolute,
        descriptor=r.descriptor,
    )


def read_recording(name: str | None = None) -> Recording:
    """What a recording's file holds; arguments and errors are those of `open_recorded`."""
    full, file = _find(without_floor(name or _DEFAULT)[0])
    return read_recording_file(file, full)


def recorded_names(is_with_added: bool = False) -> list[str]:
    """Names of the packaged recordings, and of those a user added if asked for:

    by model, classes in the order of `CLASS_ORDER`.
    """
    return sorted({**_packaged(), **(_added() if is_with_added else {})}, key=_order)


def has_schemes(name: str) -> bool:
    """Whether a recording knows what layers lose and take that are pruned by schemes;

    arguments and errors are those of `open_recorded`.
    """
    return len(read_recording(name).loss_model.layer_scale) > 0


def full_name(name: str) -> str:
    """What a name opens, without its floor:

    `resnet8@znver4-1t` of `resnet8:-0.02`; of a file its path; errors are those of `open_recorded`.
    """
    return _find(without_floor(name)[0])[0]


def problems_folder() -> Path:
    """Where added problems are kept: CPRUNE_RL_PROBLEMS, or a folder of the user's data."""
    given = os.environ.get("CPRUNE_RL_PROBLEMS")
    return Path(given).expanduser() if given else user_data_path("cprune-rl") / "problems"


def add_problem(file: Path, name: str | None = None) -> str:
    """Puts a recording among the problems that have names.

    Args:
        file: a recording, or the folder of a run, which holds one.
        name: `<model>@<device class>`; the file's own where not given.

    Returns:
        Its name.

    Raises:
        UnknownNameError: there is no such file.
        DataError: it is no recording, the name is no such name, or it is taken.
    """
    source = file / "problem.json" if file.is_dir() else file
    if not source.is_file():
        raise UnknownNameError("recording", str(source), recorded_names(True))
    recording = read_recording_file(source, str(source))
    name = name or _plain_name(file)
    if "@" not in name:
        name = f"{recording.network.name}@{name}"
    check_new_name(name)
    folder = problems_folder()
    folder.mkdir(parents=True, exist_ok=True)
    ending = ".json.gz" if source.read_bytes()[:2] == b"\x1f\x8b" else ".json"
    (folder / f"{name}{ending}").write_bytes(source.read_bytes())
    return name


def check_new_name(name: str) -> None:
    """Whether a problem, recorded or live, may be given a name.

    Raises:
        DataError: it is no such name, or it is taken.
    """
    if _OWN_NAME.fullmatch(name) is None:
        raise DataError(
            f"a problem cannot be called {name!r}: give --name MODEL@CLASS, of letters, digits and . _ + -, e.g. resnet8@pixel8"
        )
    if name in recorded_names(True) or (problems_folder() / f"{name}{LIVE_ENDING}").exists():
        raise DataError(
            f"there is a problem {name!r} already: give another --name, or remove it first if it is your own"
        )


def remove_problem(name: str) -> None:
    """Takes a problem that was added away.

    Raises:
        UnknownNameError: none of that name was added.
    """
    added = _added()
    if name not in added:
        raise UnknownNameError("added problem", name, added)
    added[name].unlink()


@dataclass(frozen=True)
class RecordedSummary:
    """What a recording says of itself.

    Attributes:
        name: it opens by.
        problem: what was recorded.
        network: its model.
        data: the images its accuracies are of.
        device: the device's fingerprint: processor, what it was compiled for, threads, timing.
        machine: what it was recorded on, in words.
        recorded: when, ISO 8601 in UTC.
        command: that made it.
        packages: versions.
        n_tasks: that were timed.
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
        when = f", {self.recorded[:10]}" if self.recorded != _NOT_STATED else ""
        return f"recorded: {self.name}, {self.n_tasks} tasks timed on {self.machine}{when} ({self.device})"


def describe_recorded(name: str | None = None) -> RecordedSummary:
    """Says what machine a recording is of, when and how it was made;

    arguments and errors are those of `open_recorded`.
    """
    full, file = _find(without_floor(name or _DEFAULT)[0])
    r = read_recording_file(file, full)
    said = {key: str(value) for key, value in r.provenance.items()}
    packages = r.provenance.get("packages")
    by_key = {w.key: c.latency_s for w, c in r.costs}
    dense = math.fsum(by_key[w.key] for w in r.network.workloads(r.network.dense))
    data, device, recorded, command = (
        said.get(key, _NOT_STATED) for key in ("data", "device", "recorded", "command")
    )
    versions = {str(k): str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}
    return RecordedSummary(
        full,
        r.name,
        r.network.name,
        data,
        device,
        _machine(r.provenance),
        recorded,
        command,
        versions,
        len(r.costs),
        dense,
    )


def _machine(provenance: Mapping[str, Any]) -> str:
    """Processor, cores, memory, system;

    the processor out of the device's fingerprint where no other is named.
    """
    fields = dict(part.partition("=")[::2] for part in str(provenance.get("device", "")).split(";"))
    told = {
        key: provenance[key]
        for key in ("processor", "n_cores", "memory_gib", "os")
        if provenance.get(key)
    }
    texts = {"processor": "{}", "n_cores": "{} cores", "memory_gib": "{} GiB", "os": "{}"}
    words = [
        texts[key].format(value)
        for key, value in ({"processor": fields.get("cpu", _NOT_STATED)} | told).items()
    ]
    return ", ".join(words)


def _packaged() -> dict[str, Traversable]:
    """Packaged files by name."""
    return _by_name(resources.files(_PACKAGED).iterdir())


def _added() -> dict[str, Path]:
    """The user's own files by name."""
    folder = problems_folder()
    return _by_name(folder.iterdir()) if folder.is_dir() else {}


def _by_name(files: Iterable[_File]) -> dict[str, _File]:
    """Of one name in both forms the gzipped one."""
    found: dict[str, _File] = {}
    files = list(files)
    for ending in _ENDINGS:
        for file in files:
            if file.name.endswith(ending):
                found.setdefault(file.name.removesuffix(ending), file)
    return found


def _plain_name(file: Path) -> str:
    return next(
        (file.name.removesuffix(ending) for ending in _ENDINGS if file.name.endswith(ending)),
        file.name,
    )


def without_floor(name: str) -> tuple[str, float | None]:
    """A name, and the floor that it ends in; None where it has none."""
    found = _FLOOR.fullmatch(name)
    return (
        (name, None)
        if found is None or Path(name).is_file()
        else (found["name"], float(found["floor"]))
    )


def _order(name: str) -> tuple[str, int, str]:
    model, _, device_class = name.partition("@")
    return (
        model,
        CLASS_ORDER.index(device_class) if device_class in CLASS_ORDER else len(CLASS_ORDER),
        device_class,
    )


def _find(name: str) -> tuple[str, Traversable]:
    """The full name, or the path as given, and the file."""
    if Path(name).is_file():
        return name, Path(name)
    known: dict[str, Traversable] = {**_added(), **_packaged()}
    of_model = sorted((full for full in known if full.partition("@")[0] == name), key=_order)
    if name not in known and not of_model:
        raise UnknownNameError(
            "recorded problem", name, {*known, *(full.partition("@")[0] for full in known)}
        )
    full = name if name in known else of_model[0]
    return full, known[full]
