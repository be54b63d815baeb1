"""The file of a recorded problem: `cprune-rl record` and every run write one.

It is JSON, plain or gzipped. Files come from strangers: one is read up to a limit, every value is
checked before a problem is made of it, and nothing in it is run.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cprune_rl.core.atomic_files import write_bytes, write_text
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.core.network_json import network_from_json, network_to_json
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.untrusted import DAMAGED, damage, number, numbers, printable, whole
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.recording_checks import check_network
from cprune_rl.errors import DataError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["MAX_BYTES", "Recording", "read_recording_file", "save_recorded"]

_FORMAT = 2  # since 2 the descriptor is a device's figures
MAX_BYTES = 32 << 20  # unpacked; the packaged files have about 1 MiB
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the file of a recorded problem holds.

    Attributes:
        name: of the problem.
        network: what is pruned.
        costs: tasks that were timed.
        loss_model: fitted to the oracle's answers.
        dense_accuracy: of the dense network, in [0, 1].
        floor: as asked for when it was recorded, relative to the dense network: 0 or less.
        descriptor: of the device.
        provenance: what was recorded where, when and by which command.
    """

    name: str
    network: Network
    costs: tuple[tuple[Workload, TaskCost], ...]
    loss_model: LossModel
    dense_accuracy: float
    floor: float
    descriptor: DeviceDescriptor
    provenance: Mapping[str, Any]

    @property
    def has_schemes(self) -> bool:
        """Whether it knows the losses and latencies of layers that schemes prune."""
        return self.loss_model.has_layers

    def floor_or(self, *floors: float | None) -> float:
        """Resolve the first floor that is given, else its own, to the accuracy that must hold.

        Raises:
            FloorError: nothing can hold it.
        """
        floor = next((floor for floor in floors if floor is not None), self.floor)
        return resolve_floor(floor, self.dense_accuracy)


def save_recorded(
    path: Path,
    problem: Problem,
    costs: Sequence[tuple[Workload, TaskCost]],
    provenance: Mapping[str, Any],
) -> None:
    """Write a recorded problem; gzipped where the name ends so.

    Args:
        path: file to write.
        problem: its loss model must be fitted to the oracle's answers.
        costs: tasks that were timed.
        provenance: what was recorded where, when and by which command.
    """
    loss_model = problem.loss_model
    losses = {"scale": loss_model.scale.tolist(), "power": loss_model.power.tolist()}
    if loss_model.has_layers:
        losses["layers"] = loss_model.layer_scale.tolist()
    value = {
        "format": _FORMAT,
        "name": problem.name,
        "network": network_to_json(problem.network),
        "tasks": [_task_to_json(workload, cost) for workload, cost in costs],
        "curves": losses,
        "dense_accuracy": problem.dense_accuracy,
        "floor": problem.floor - problem.dense_accuracy,
        "descriptor": problem.descriptor.to_json(),
        "provenance": dict(provenance),
    }
    text = dump_json(value)
    if path.suffix == ".gz":
        write_bytes(path, gzip.compress(text.encode(), mtime=0))  # equal problems, equal files
    else:
        write_text(path, text)


def read_recording_file(file: Traversable, name: str) -> Recording:
    """Read a recorded problem.

    Args:
        file: where it is.
        name: for messages.

    Raises:
        DataError: the file is damaged, too large, no recorded problem, or of another format.
    """
    try:
        value = json.loads(_read(file), parse_constant=_refuse_constant)
        if value["format"] != _FORMAT:
            raise DataError(
                f"it has format {value['format']!r}, this version reads {_FORMAT}. "
                "Record it again with `cprune-rl record` of this version."
            )
        return _from_json(value)
    except DataError as error:
        raise DataError(f"{name!r} is no recorded problem: {printable(str(error))}") from error
    except (*DAMAGED, zlib.error) as error:
        raise DataError(
            f"{name!r} is no recorded problem, or a damaged one: "
            f"{type(error).__name__}: {damage(error)[:200]}. "
            "Record it again with `cprune-rl record`."
        ) from error


def _read(file: Traversable) -> bytes:
    """Unpack a file, never past the limit: a few kilobytes can unpack to gigabytes."""
    with file.open("rb") as raw:
        content = raw.read(MAX_BYTES + 1)
    if len(content) <= MAX_BYTES and content[:2] == _GZIP_MAGIC:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            content = packed.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"it holds more than {MAX_BYTES >> 20} MiB, which no recording does")
    return content


def _refuse_constant(text: str) -> float:
    raise DataError(f"it holds {text}, which is no number")


def _task_to_json(workload: Workload, cost: TaskCost) -> dict[str, Any]:
    return {
        "workload": {**vars(workload), "operator": vars(workload.operator)},
        "latency_s": cost.latency_s,
        "tile_factors": list(cost.tile_factors),
        "lanes": cost.lanes,
        "spread": round(cost.spread, 5),
    }


def _task_from_json(value: Mapping[str, Any]) -> tuple[Workload, TaskCost]:
    cost = TaskCost(
        latency_s=number(value["latency_s"], "latency_s", 1e-12, 1e6),
        tile_factors=tuple(whole(factor, "tile factor", 1) for factor in value["tile_factors"]),
        lanes=whole(value.get("lanes", 1), "lanes", 1),
        spread=number(value.get("spread", 0.0), "spread", 0.0, 1e3),
    )
    return _workload_from_json(value["workload"]), cost


def _workload_from_json(value: Mapping[str, Any]) -> Workload:
    operator = value["operator"]
    return Workload(
        key=str(value["key"]),
        family=str(value["family"]),
        channels_in=whole(value["channels_in"], "channels", 1),
        channels_out=whole(value["channels_out"], "channels", 1),
        macs=whole(value["macs"], "MACs", 0),
        operator=OperatorKind(
            name=str(operator["name"]),
            kernel=whole(operator["kernel"], "kernel", 1),
            stride=whole(operator["stride"], "stride", 1),
            height=whole(operator["height"], "height", 1),
        ),
    )


def _from_json(value: Mapping[str, Any]) -> Recording:
    network = network_from_json(value["network"])
    check_network(network)
    costs = tuple(_task_from_json(task) for task in value["tasks"])
    dense_keys = {workload.key for workload in network.workloads(network.dense)}
    if missing := dense_keys - {workload.key for workload, _ in costs}:
        raise DataError(
            f"it has no latency of {len(missing)} tasks of the dense network, "
            f"e.g. {min(missing)[:60]!r}"
        )
    provenance = value["provenance"]
    if not isinstance(provenance, dict):
        raise DataError(f"its provenance is {type(provenance).__name__}, it must be an object")
    return Recording(
        name=str(value["name"]),
        network=network,
        costs=costs,
        loss_model=_loss_model_from_json(value["curves"], network),
        dense_accuracy=number(value["dense_accuracy"], "dense_accuracy", 0.0, 1.0),
        floor=number(value["floor"], "floor", -1.0, 0.0),
        descriptor=DeviceDescriptor.from_json(value["descriptor"]),
        provenance=provenance,
    )


def _loss_model_from_json(value: Mapping[str, Any], network: Network) -> LossModel:
    n_groups = len(network.groups)
    layer_scale: list[float] = []
    if "layers" in value:
        layer_scale = numbers(value["layers"], "layers", len(network.scheme_layers), 0.0)
    return LossModel(
        np.array(numbers(value["scale"], "scale", n_groups, 0.0)),
        np.array(numbers(value["power"], "power", n_groups, 1e-3)),
        np.array(layer_scale, float),
    )
