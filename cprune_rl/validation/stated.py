"""Reads what a run folder states, and rebuilds its networks from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cprune_rl.accuracy.data import ImageData, Split, load_data, load_inputs, loop_name, parse_data
from cprune_rl.accuracy.labels import labelled_by_network
from cprune_rl.accuracy.task import load_task
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.intervals import Interval
from cprune_rl.core.output_agreement import OutputAgreement
from cprune_rl.core.result import (
    DenseFigures,
    FrontPoint,
    Result,
    read_front,
    read_front_dense,
    read_front_splits,
)
from cprune_rl.errors import ConfigError
from cprune_rl.models.exported import load_exported
from cprune_rl.models.registry import build_model, is_object
from cprune_rl.models.tensor_files import read_tensors
from cprune_rl.models.weights import load_weights
from cprune_rl.pipeline.results import OTHER_DENSE
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pruning.surgery import PlanFile, load_pruned

__all__ = ["StatedDense", "StatedNetwork", "StatedRun", "read_run"]

_FILES = (
    "config.yaml",
    "command.txt",
    "system.json",
    "problem.json",
    "model.pt2",
    "dense.safetensors",
    "report.html",
)
_GATE = ("n_looks", "risk", "lower_bound", "passed")
_LIBRARIES = ("lib.so", "dense.so")


@dataclass(frozen=True, kw_only=True)
class StatedNetwork:
    """One network of a run folder, and what is stated of it.

    Attributes:
        name: for claims.
        model: rebuilt from its files.
        plan_file: None of a run's dense network, which has none.
        library: path within the folder.
        macs: None where none are stated.
        shown_ms: latency of the whole network, or its estimate where nothing was timed.
        floor: as asked for; None of the dense network.
        gate: the final gate's verdict; empty of the dense network.
        speedup: None of the dense network.
        gained: accuracy above the dense network's on test images; None where it is not stated.
        compiled: how the library agreed with torch; None where it is not stated.
    """

    name: str
    model: nn.Module
    plan_file: PlanFile | None
    library: str
    n_params: int
    macs: int | None
    shown_ms: float
    accuracy_test: float
    floor: float | None
    gate: Mapping[str, Any]
    speedup: Interval | None
    gained: Interval | None
    compiled: OutputAgreement | None

    @property
    def schemes(self) -> tuple[tuple[str, str], ...]:
        """Scheme of each layer that is not dense."""
        return () if self.plan_file is None else self.plan_file.schemes


@dataclass(frozen=True, kw_only=True)
class StatedDense:
    """Both dense networks of a run folder, and what is stated of them.

    Attributes:
        other: the network that the floor is not counted from, rebuilt from its file.
        figures: of both.
        is_chosen: whether the run chose the better one; it was told to take the given one if not.
    """

    other: nn.Module
    figures: DenseFigures
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class StatedRun:
    """A run folder.

    Attributes:
        result: None of a front.
        device: name of where it was timed.
        images: that it was judged on; None where functions of the user's judged.
        inputs: images that compiled networks are compared with torch on.
        plan_file: of any network: its input and its classes.
        networks: the dense one first, which the floor is counted from.
        both_dense: None in what earlier versions wrote.
    """

    folder: Path
    result: Result | None
    device: str
    images: ImageData | None
    inputs: Split
    plan_file: PlanFile
    networks: tuple[StatedNetwork, ...]
    both_dense: StatedDense | None = None

    @property
    def dense(self) -> StatedNetwork:
        """The dense network."""
        return self.networks[0]

    @property
    def is_estimate(self) -> bool:
        """Whether the device was a recording, so that nothing was built or timed."""
        return isinstance(parse_device(self.device), RecordedSpec)


def read_run(folder: Path) -> StatedRun:
    """Read the folder of a run with one floor or several.

    Raises:
        CPruneError: it holds no finished run, or a file of it is damaged.
    """
    if (folder / "front.json").exists():
        return _read_front(folder)
    return _read_single(folder)


def _read_single(folder: Path) -> StatedRun:
    result = Result.read(folder / "result.json")
    for name in _FILES if result.is_estimate else (*_FILES, *_LIBRARIES):
        if not (folder / name).exists():
            raise ConfigError(
                f"{folder / name} is missing: the run did not finish; go on with --resume {folder}"
            )
    model, plan_file = _pruned(folder)
    reference = result.reference
    networks = (
        StatedNetwork(
            name="dense",
            model=_dense_model(folder / "dense.safetensors", plan_file),
            plan_file=None,
            library="dense.so",
            n_params=reference.n_params,
            macs=reference.macs,
            shown_ms=reference.shown_ms,
            accuracy_test=reference.accuracy_test,
            compiled=reference.compiled,
            floor=None,
            gate={},
            speedup=None,
            gained=None,
        ),
        StatedNetwork(
            name=result.method,
            model=model,
            plan_file=plan_file,
            library="lib.so",
            n_params=result.main.pruned.n_params,
            macs=result.main.pruned.macs,
            shown_ms=result.main.pruned.shown_ms,
            accuracy_test=result.main.pruned.accuracy_test,
            compiled=result.main.pruned.compiled,
            floor=result.floor,
            gate=_complete_gate(result.main.gate, folder / "result.json"),
            speedup=Interval(result.main.speedup, *result.main.speedup_ci),
            gained=None,
        ),
    )
    stated = _Images(
        data=result.data,
        is_fast=result.fast,
        top=result.top,
        labels=result.labels,
        task=result.task,
        splits=result.splits,
    )
    images = _read_images(stated, networks[0].model)
    return StatedRun(
        folder=folder,
        result=result,
        device=result.device,
        images=images,
        inputs=load_inputs(stated.data) if images is None else images.gate,
        plan_file=plan_file,
        networks=networks,
        both_dense=_both_dense(folder, plan_file, result.dense_figures),
    )


def _dense_model(file: Path, plan_file: PlanFile) -> nn.Module:
    """Rebuild a dense network.

    Args:
        file: of its weights.
        plan_file: of a network that was pruned from it.
    """
    if not file.exists():
        raise ConfigError(f"{file} is missing: it was not written, or moved away")
    if is_object(plan_file.model):
        exported = load_exported(file.parent / "dense.pt2")
        exported.take_weights(read_tensors(file))
        return exported
    n_channels = plan_file.input_shape[1]
    model = build_model(plan_file.model, plan_file.n_classes, n_channels=n_channels)
    load_weights(model, file)
    return model.eval()


def _both_dense(
    folder: Path, plan_file: PlanFile, figures: DenseFigures | None
) -> StatedDense | None:
    if figures is None or figures.finetuned is None:
        return None
    return StatedDense(
        other=_dense_model(folder / OTHER_DENSE[figures.floor_from], plan_file),
        figures=figures,
        is_chosen=RunFolder.resume(folder).config.floor_from == "better",
    )


def _pruned(folder: Path) -> tuple[nn.Module, PlanFile]:
    """Rebuild a pruned network, or open it as it was exported where its code is not kept."""
    plan_file = PlanFile.read(folder)
    if not is_object(plan_file.model):
        return load_pruned(folder)
    return load_exported(folder / "model.pt2"), plan_file


def _read_front(folder: Path) -> StatedRun:
    points = read_front(folder / "front.json")
    for point in points:
        if ".." in Path(point.folder).parts or Path(point.folder).is_absolute():
            raise ConfigError(f"{folder / 'front.json'} names a network outside of its folder")
        if not (folder / point.folder / "model.safetensors").exists():
            raise ConfigError(
                f"{folder / point.folder} has no network: it was not finished, or moved away"
            )
    config = RunFolder.resume(folder).config
    plan_file = PlanFile.read(folder / points[0].folder)
    networks = tuple(_network_of_front(folder, point) for point in points)
    stated = _Images(
        data=config.data,
        is_fast=config.is_fast,
        top=config.top,
        labels=config.labels,
        task=config.task or "",
        splits=read_front_splits(folder / "front.json"),
    )
    images = _read_images(stated, networks[0].model)
    return StatedRun(
        folder=folder,
        result=None,
        device=config.device,
        images=images,
        inputs=load_inputs(stated.data) if images is None else images.gate,
        plan_file=plan_file,
        networks=networks,
        both_dense=_both_dense(folder, plan_file, read_front_dense(folder / "front.json")),
    )


def _network_of_front(folder: Path, point: FrontPoint) -> StatedNetwork:
    model, plan_file = _pruned(folder / point.folder)
    is_dense = point.floor is None
    return StatedNetwork(
        name=point.folder,
        model=model,
        plan_file=plan_file,
        library=f"{point.folder}/lib.so",
        n_params=point.n_params,
        macs=None,
        shown_ms=point.shown_ms,
        accuracy_test=point.accuracy_test[0],
        compiled=point.compiled,
        floor=point.floor,
        gate={} if is_dense else _complete_gate(point.gate, folder / "front.json"),
        speedup=None if is_dense else Interval(*point.speedup),
        gained=None if is_dense else Interval(*point.gained_test),
    )


def _complete_gate(gate: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Give a verdict that can be checked.

    Raises:
        ConfigError: a part of it is missing.
    """
    if missing := [name for name in _GATE if name not in gate]:
        raise ConfigError(f"{path} states no {missing[0]} of the final gate")
    return gate


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Which images a run was judged on, and by what; see `Result`."""

    data: str
    is_fast: bool
    top: int
    labels: str
    task: str
    splits: int


def _read_images(stated: _Images, dense: nn.Module) -> ImageData | None:
    """Open the images as the run did; there are none to judge on where a user's functions did.

    Args:
        dense: labels them where the run had no other labels.
    """
    name = stated.data
    if loop_name(name):
        return None
    can_be_stratified = "stratify" in parse_data(name).known_options
    if stated.splits == 1 and can_be_stratified and "stratify" not in parse_data(name).options:
        name += f"{'&' if '?' in name else '?'}stratify=off"
    task = load_task(stated.task) if stated.task else None
    images = load_data(name, stated.is_fast, labels=stated.labels, task=task)
    if stated.labels == "teacher":
        images = labelled_by_network(images, dense)
    return images.with_top(stated.top) if stated.top > 1 else images
