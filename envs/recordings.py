"""Recorded problems by name: the packaged ones, and anybody's files.

A recorded problem needs neither compiler nor device nor images: its file holds the network's groups and subgraphs,
the measured tasks, and the loss curves fitted to an oracle. The packaged ones are `<model>@<device class>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprune_rl.cost_cache.recorded import RecordedCosts, RecordedTasks
from cprune_rl.envs.curves import CurveOracle
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.envs.recording_file import Recording, read_recording_file, save_recorded
from cprune_rl.errors import UnknownNameError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["CLASS_ORDER", "RecordedSummary", "Recording", "describe_recorded", "open_recorded", "read_recording", "recorded_names", "save_recorded"]

_PACKAGED = "cprune_rl.envs.recorded"
_DEFAULT = "resnet8"
_ENDINGS = (".json.gz", ".json")
CLASS_ORDER = ("znver4-1t", "haswell-1t", "znver4-2t", "haswell-2t")  # a model's name alone opens the first that there is; classes not named here come last, by name
_NOT_STATED = "not stated"


def open_recorded(name: str | None = None, floor: float | None = None, noise_seed: int | None = None) -> Problem:
    """Opens a recorded problem.

    Args:
        name: a packaged one, `resnet8@znver4-1t`, or `resnet8` for the first class of `CLASS_ORDER`; or the path of a
            file, gzipped or not. None is `resnet8`.
        floor: replaces the recorded floor (see `resolve_floor`).
        noise_seed: latencies deviate by the recording's own uncertainty, as on a device; None: they do not (see `RecordedCosts`).

    Raises:
        UnknownNameError: no packaged recording of that name, and no such file.
        DataError: the file is damaged, no recorded problem, or of another format.
        FloorError: the floor is above the recorded accuracy.
    """
    r = read_recording(name)
    latency = RecordedCosts(r.network, RecordedTasks(r.costs), noise_seed)
    oracle = CurveOracle(r.network, r.curves, r.dense_accuracy)
    absolute = resolve_floor(r.floor if floor is None else floor, r.dense_accuracy)
    return Problem(r.name, r.network, latency, oracle, r.curves, r.dense_accuracy, absolute, r.descriptor)


def read_recording(name: str | None = None) -> Recording:
    """What a recording's file holds; arguments and errors are those of `open_recorded`."""
    full, file = _find(name or _DEFAULT)
    return read_recording_file(file, full)


def recorded_names() -> list[str]:
    """Names of the packaged recordings: by model, classes in the order of `CLASS_ORDER`."""
    return sorted(_packaged(), key=_order)


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
    """Says what machine a recording is of, when and how it was made; arguments and errors are those of `open_recorded`."""
    full, file = _find(name or _DEFAULT)
    r = read_recording_file(file, full)
    said = {key: str(value) for key, value in r.provenance.items()}
    packages = r.provenance.get("packages")
    by_key = {w.key: c.latency_s for w, c in r.costs}
    dense = math.fsum(by_key[w.key] for w in r.network.workloads(r.network.dense))
    data, device, recorded, command = (said.get(key, _NOT_STATED) for key in ("data", "device", "recorded", "command"))
    versions = {str(k): str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}
    return RecordedSummary(full, r.name, r.network.name, data, device, _machine(r.provenance), recorded, command, versions, len(r.costs), dense)


def _machine(provenance: Mapping[str, Any]) -> str:
    """Processor, cores, memory, system; the processor out of the device's fingerprint where no other is named."""
    fields = dict(part.partition("=")[::2] for part in str(provenance.get("device", "")).split(";"))
    told = {key: provenance[key] for key in ("processor", "n_cores", "memory_gib", "os") if provenance.get(key)}
    texts = {"processor": "{}", "n_cores": "{} cores", "memory_gib": "{} GiB", "os": "{}"}
    words = [texts[key].format(value) for key, value in ({"processor": fields.get("cpu", _NOT_STATED)} | told).items()]
    return ", ".join(words)


def _packaged() -> dict[str, Traversable]:
    """Packaged files by name; of one name in both forms the gzipped one."""
    found: dict[str, Traversable] = {}
    files = list(resources.files(_PACKAGED).iterdir())
    for ending in _ENDINGS:
        for file in files:
            if file.name.endswith(ending):
                found.setdefault(file.name.removesuffix(ending), file)
    return found


def _order(name: str) -> tuple[str, int, str]:
    model, _, device_class = name.partition("@")
    return model, CLASS_ORDER.index(device_class) if device_class in CLASS_ORDER else len(CLASS_ORDER), device_class


def _find(name: str) -> tuple[str, Traversable]:
    """The full name, or the path as given, and the file."""
    if Path(name).is_file():
        return name, Path(name)
    packaged = _packaged()
    of_model = sorted((known for known in packaged if known.partition("@")[0] == name), key=_order)
    if name not in packaged and not of_model:
        raise UnknownNameError("recorded problem", name, {*packaged, *(known.partition("@")[0] for known in packaged)})
    full = name if name in packaged else of_model[0]
    return full, packaged[full]
