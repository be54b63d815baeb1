"""The whole way from Python: `cprune_rl.prune(...)` does what `cprune-rl prune` does.

The command line is written on top of this module.
"""

from __future__ import annotations

import contextlib
import shutil
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import nn
from typing_extensions import Unpack

from cprune_rl.accuracy.data.arrays import GivenImages, ImagePairs, Images, Labels, Scale
from cprune_rl.core.explained_plan import ExplainedPlan
from cprune_rl.core.result import Figures, MethodResult, Result
from cprune_rl.errors import ConfigError, CPruneError, DeviceError, StoreError, ToolchainError
from cprune_rl.models.export_formats import EXPORT_FORMATS, export_network
from cprune_rl.models.registry import object_name
from cprune_rl.models.weights import export_torch, save_weights
from cprune_rl.pipeline.from_python import checked_config, given_module, keep_given_images
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.progress import OnProgress, ProgressEvent, ProgressLog
from cprune_rl.pipeline.run import FinishedRun, run_whole
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.setup import check_names
from cprune_rl.pruning.finished import load_finished

__all__ = [
    "ExplainedPlan",
    "LoopOptions",
    "ProgressEvent",
    "PruneOptions",
    "PruneResult",
    "go_on",
    "load",
    "prune",
]


class LoopOptions(TypedDict, total=False):
    """Further options of `Pruner.prune`, those of the command line with underscores.

    `cprune-rl prune --help` describes them. Where the command line has values parted by commas, a
    list will do.
    """

    importance: Literal["l1", "l2", "fpgm", "taylor", "random"]
    freeze: str | Sequence[str]
    keep: str | Sequence[str]
    margin: float | None
    confidence: float
    methods: str | Sequence[str]
    budget: str
    policy: str | Path | None
    init: str | Path | None
    oracle: str
    finetune_steps: int | None
    predict: float | Literal["always"]
    floor_from: Literal["better", "given"]
    layouts: Literal["all", "plain"]
    storage: str | None
    export: str | Sequence[str]
    cache: str | Path | None


class PruneOptions(LoopOptions, total=False):
    """Further options of `prune`: those of `LoopOptions`, and how it trains and judges itself."""

    change: str | Sequence[str]
    choose: Literal["search", "rule"]
    top: int
    scheme_policy: str | Path | None
    distillation: float
    task: str | None
    train_device: str


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A pruned network, and what a run came to.

    Attributes:
        folder: of the run, with the network's files.
        model: the pruned, fine-tuned network in evaluation mode, on the CPU.
        plan: what is kept; `plan.explain()` says why.
        summary: all figures, as `result.json` has them.
        input_shape: of one image as a batch.
        others: the same for the other floors of a run with several, in their order.
    """

    folder: Path
    model: nn.Module
    plan: ExplainedPlan
    summary: Result
    input_shape: tuple[int, ...]
    others: tuple[PruneResult, ...] = ()

    @property
    def speedup(self) -> float:
        """Dense over pruned latency of the whole network; of the estimates on a recording."""
        return self.summary.main.speedup

    @property
    def speedup_ci(self) -> tuple[float, float]:
        """95 % interval of the speed-up."""
        return self.summary.main.speedup_ci

    @property
    def accuracy(self) -> float:
        """Accuracy of the pruned network on `summary.shown_on`, in [0, 1]."""
        return self.summary.main.pruned.accuracy_test

    @property
    def holds_floor(self) -> bool:
        """Whether the final gate passed the network."""
        return bool(self.summary.main.gate["passed"])

    @property
    def dense(self) -> Figures:
        """Figures of the dense network."""
        return self.summary.dense

    @property
    def main(self) -> MethodResult:
        """What the run's own method reached, with its cost."""
        return self.summary.main

    def report(self, *, open_browser: bool = False) -> Path:
        """Give the path of the report: `report.html`, or the picture of a front.

        Args:
            open_browser: whether to show it.
        """
        path = self.folder / ("front.png" if self.others else "report.html")
        if open_browser:
            webbrowser.open(path.resolve().as_uri())
        return path

    def export(self, kind: str, path: str | Path) -> Path:
        """Write the pruned network as a file.

        Args:
            kind: `onnx`; `pte`, for ExecuTorch; `pt2`, for torch alone; `safetensors`, its weights;
                `so`, the library that the run compiled for its device.
            path: of the file.

        Raises:
            ConfigError: there is no such kind of file, a package for it is not installed, or the
                run compiled nothing.
            ModelError: the network cannot be written so.
        """
        target = Path(path).expanduser()
        if kind == "pt2":
            export_torch(self.model, self.input_shape, target)
        elif kind == "safetensors":
            save_weights(self.model, target)
        elif kind == "so":
            self._copy_library(target)
        elif kind in EXPORT_FORMATS:
            export_network(kind, self.model, self.input_shape, target)
        else:
            kinds = ", ".join([*EXPORT_FORMATS, "pt2", "safetensors", "so"])
            raise ConfigError(f"unknown kind of file {kind!r}: give one of {kinds}")
        return target

    def _copy_library(self, target: Path) -> None:
        folder = self.folder
        if self.others:
            folder = folder / f"floor{self.summary.floor:+g}"
        if not (folder / "lib.so").exists():
            raise ConfigError("this run has no lib.so: a recorded device compiles nothing")
        shutil.copyfile(folder / "lib.so", target)

    def __repr__(self) -> str:
        kind = "estimated " if self.summary.is_estimate else ""
        return (
            f"<{kind}speed-up {self.speedup:.2f}, accuracy {self.accuracy:.2%} "
            f"(dense {self.dense.accuracy_test:.2%}), {self.folder}>"
        )


def prune(
    model: str | nn.Module = "resnet8",
    images: Images | None = None,
    labels: Labels | Literal["given", "teacher"] | None = None,
    *,
    data: str | None = None,
    test: tuple[Images, Labels] | ImagePairs | None = None,
    normalise: Scale | None = None,
    augment: bool = False,
    weights: str | Path | None = None,
    floor: float | str | Sequence[float] = -0.01,
    device: str = "local",
    effort: Literal["full", "light", "quick", "fast"] = "full",
    seed: int = 0,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **options: Unpack[PruneOptions],
) -> PruneResult:
    """Prune a network for a device with a policy that was trained before.

    Args:
        model: a trained `torch.nn.Module`, left as it was; or a network's name as `--model` has it,
            such as `"mynet.py:build"`.
        images: `(n, channels, height, width)`, numpy or torch. uint8 images are shown to the
            network in [0, 1], see `normalise`; floating-point images as they are. Or a torch
            Dataset of (image, label).
        labels: `(n,)` whole numbers from 0, beside images that are no Dataset; or "teacher": the
            dense network's answers are the labels, and accuracy is agreement with it.
        data: name of the images as `--data` has it, in the place of `images`.
        test: test images and labels of their own, or a Dataset; else they are taken from `images`.
        normalise: of uint8 `images`: a name such as `"imagenet"`, or `(mean, std)` of pixels in
            [0, 1].
        augment: whether training shifts and flips `images`.
        weights: file of trained weights, a state_dict in `.pt` or `.safetensors`.
        floor: accuracy that must hold: -0.01 is one point below the dense network, 0.95 is
            absolute. Several make a front.
        device: where to be fast: `local`, `rpc://host:port/key`, or `recorded:NAME`.
        effort: how much work the parts of the run do.
        seed: of training, schedules and search.
        out: run folder; a new one under `runs/` where it is not given.
        resume: run folder of a run that ended early: go on with it. Its options are in it; only
            a `model` that is a module is given again.
        on_progress: called with each `ProgressEvent`, in the place of the progress bars.
        options: see `PruneOptions`.

    Returns:
        The pruned network and its figures; those of the last floor where there are several.

    Raises:
        CPruneError: an option, the network, the images, the machine's tools or the device is at
            fault. What was measured and trained until then is kept.
    """
    progress = ProgressLog(listener=on_progress)
    module = given_module(model)
    if resume is not None:
        return _resumed(Path(resume), module, progress)
    asked: dict[str, Any] = {
        **options,
        "model": model if module is None else object_name(module),
        "weights": weights,
        "floor": floor,
        "device": device,
        "effort": effort,
        "seed": seed,
        "out": None if out is None else Path(out),
        "data": data,
        "labels": labels if isinstance(labels, str) else None,
    }
    given_images = GivenImages(
        images=images,
        labels=_array_labels(images, labels),
        test=test,
        normalise=normalise,
        augment=augment,
    )
    _check_one_source(given_images, data, module)
    given = Given(model=module)
    config = checked_config(asked, given)
    if images is not None:
        config = keep_given_images(given_images, config, progress)
    return go_on(RunFolder.create(config), progress, given)


def load(path: str | Path) -> nn.Module:
    """Open the pruned network of a run, ready to use.

    It needs neither the code that built the network nor a compiler. It runs no code of the folder:
    nothing is unpickled. The network is in evaluation mode and takes batches of normalised images.

    Args:
        path: a run folder, the folder of one network of a front, or a `model.safetensors`.

    Raises:
        CPruneError: there is no finished network, or a file of it is damaged.
    """
    return load_finished(Path(path).expanduser())


def go_on(
    folder: RunFolder, progress: ProgressLog, given: Given | None = None, *, by: str = "resume="
) -> PruneResult:
    """Run what a run folder asks for, from its beginning or from where it ended.

    Args:
        folder: with the options.
        progress: told what is going on.
        given: objects in the place of names.
        by: what a user goes on with, before the folder's path.

    Raises:
        CPruneError: see `prune`. The folder is gone where the options were wrong.
        KeyboardInterrupt: Ctrl-C was pressed; what was done is kept.
    """
    with _keeping(folder, f"go on with {by}{folder.path}"), progress.interruptible():
        return _result(folder.path, run_whole(folder, progress, given))


@contextlib.contextmanager
def _keeping(folder: RunFolder, how: str) -> Iterator[None]:
    """Say what was kept where a run fails, and remove a folder that has nothing in it."""
    try:
        yield
    except (DeviceError, StoreError, ToolchainError) as error:
        raise type(error)(
            f"{str(error).rstrip('.')}. What was measured and trained is kept; {how}"
        ) from error
    except CPruneError:
        folder.discard_if_empty()
        raise
    except OSError as error:  # a full disk, a folder that went away
        raise OSError(f"{error}. {how[0].upper()}{how[1:]}") from error


def _result(folder: Path, run: FinishedRun) -> PruneResult:
    results = [
        PruneResult(
            folder=folder, model=model, plan=plan, summary=summary, input_shape=run.input_shape
        )
        for model, plan, summary in zip(run.models, run.plans, run.results, strict=True)
    ]
    *others, last = results
    return PruneResult(**{**vars(last), "others": tuple(others)})


def _array_labels(images: Images | None, labels: Labels | str | None) -> Labels | None:
    """Give the labels that stand beside images: blank ones where a network gives them later."""
    if not isinstance(labels, str):
        return labels
    if labels != "teacher" or not isinstance(images, np.ndarray | torch.Tensor):
        return None
    return np.zeros(len(images), np.int64)


def _check_one_source(given: GivenImages, data: str | None, module: nn.Module | None) -> None:
    if given.images is not None and data is not None:
        raise ConfigError("give images, or the name of a data set as data=, and not both")
    if given.images is None and given.is_described:
        raise ConfigError("labels, test, normalise and augment go beside images: give images")
    if given.images is None and data is None and module is not None:
        raise ConfigError(
            "a module needs images: give images and labels, or data='npz:FILE' or another name"
        )
    given.check()


def _resumed(path: Path, module: nn.Module | None, progress: ProgressLog) -> PruneResult:
    folder = RunFolder.resume(path)
    given = Given(model=module)
    check_names(folder.config, given)
    return go_on(folder, progress, given)
