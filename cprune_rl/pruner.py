"""Prunes networks whose training loop, loss and images stay with the caller.

`cprune_rl.Pruner(model, images, fine_tune=..., evaluate=...).prune(...)` goes the way of
`cprune_rl.prune`, and asks the caller's functions wherever that trains or judges by itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from typing_extensions import Unpack

from cprune_rl.accuracy.data import loop_name, parse_data
from cprune_rl.accuracy.data.arrays import GivenImages, Images, Scale
from cprune_rl.accuracy.loop_trainer import Evaluate, FineTune, Right, TrainingLoop
from cprune_rl.api import LoopOptions, PruneOptions, PruneResult, go_on
from cprune_rl.errors import ConfigError
from cprune_rl.models.registry import object_name
from cprune_rl.pipeline.from_python import checked_config, given_module, keep_given_images
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.progress import OnProgress, ProgressLog
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.setup import check_names

__all__ = ["Evaluate", "FineTune", "Pruner", "Right"]

_LEAST_IMAGES = 16  # so many compare compiled networks with torch
_NAME = re.compile(r"[\w.-]{1,60}")
# What `prune` takes because it trains and judges by itself.
_OF_PRUNE = {
    *(PruneOptions.__annotations__.keys() - LoopOptions.__annotations__.keys()),
    "augment",
    "data",
    "labels",
    "weights",
}


class Pruner:
    """Prunes a network with a training loop, a loss and a data loader of the caller's.

    `fine_tune` and `evaluate` get networks on the CPU, and may move them. `fine_tune` gets one in
    training mode, with torch's generator seeded; the others get one in evaluation mode, without
    gradients.

    Args:
        model: a trained `torch.nn.Module`, left as it was.
        images: `(n, channels, height, width)`, numpy or torch, 16 or more, without labels: some of
            those that the network is trained on. They set batch norms, and compiled networks are
            compared with torch on them. uint8 images are shown to the network in [0, 1], see
            `normalise`; floating-point images as they are.
        fine_tune: `fine_tune(model, steps)` trains a network in place for so many optimiser steps.
            The dense network and every plan get the same steps.
        evaluate: `evaluate(model)` judges a network on the images that a search may see. It gives
            one boolean for each image, `(n,)`, in the same order each time; or
            `(n_correct, n_images)`, for which the gate needs more images.
        gate: the same on images that decide whether a finished network holds the floor. Where it is
            not given, the gate judges on those of `evaluate`, and the result says so.
        test: the same on images that decide nothing. Where it is not given, the accuracies of the
            result are those of the gate, and it says so.
        normalise: of uint8 `images`: a name such as `"imagenet"`, or `(mean, std)` of pixels in
            [0, 1].
        name: of the functions, up to 60 letters, digits, dots or hyphens. Runs with one name,
            network and images share what was trained: give a new one when a function changes.
            Without it, each run has one of its own.

    Raises:
        ConfigError: an argument is of another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        fine_tune: FineTune,
        evaluate: Evaluate,
        gate: Evaluate | None = None,
        test: Evaluate | None = None,
        normalise: Scale | None = None,
        name: str | None = None,
    ) -> None:
        module = given_module(model)
        if module is None:
            raise ConfigError(f"model is the name {model!r}: give the trained torch.nn.Module")
        if name is not None and not _NAME.fullmatch(name):
            raise ConfigError(f"name={name!r}: give 1 to 60 letters, digits, dots or hyphens")
        loop = TrainingLoop(fine_tune=fine_tune, evaluate=evaluate, gate=gate, test=test)
        loop.check()
        self._given = Given(model=module, loop=loop)
        self._images = images
        self._normalise = normalise
        self._name = name

    def prune(
        self,
        *,
        floor: float | str | Sequence[float] = -0.01,
        device: str = "local",
        effort: Literal["full", "light", "quick", "fast"] = "full",
        seed: int = 0,
        out: str | Path | None = None,
        resume: str | Path | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[LoopOptions],
    ) -> PruneResult:
        """Prune the network for a device with a policy that was trained before.

        Args:
            floor: accuracy that must hold: -0.01 is one point below the dense network, 0.95 is
                absolute. Several make a front.
            device: where to be fast: `local`, `rpc://host:port/key`, or `recorded:NAME`.
            effort: how much work the parts of the run do.
            seed: of schedules and search, and of torch's generator for `fine_tune`.
            out: run folder; a new one under `runs/` where it is not given.
            resume: run folder of a run that ended early: go on with it. Its options are in it.
            on_progress: called with each `ProgressEvent`, in the place of the progress bars.
            options: see `cprune_rl.api.LoopOptions`.

        Returns:
            The pruned network and its figures; those of the last floor where there are several.

        Raises:
            ConfigError: an option is wrong, or a function fails or gives something else than it
                should; the message names it. The functions that judge are tried before anything is
                trained.
            CPruneError: see `cprune_rl.prune`.
        """
        progress = ProgressLog(listener=on_progress)
        if resume is not None:
            return self._resumed(Path(resume), progress)
        _refuse(options)
        name = self._name or f"own-{secrets.token_hex(4)}"
        images = self._given_images(name)
        images.check()
        asked: dict[str, Any] = {
            **options,
            "model": self._object_name,
            "floor": floor,
            "device": device,
            "effort": effort,
            "seed": seed,
            "out": None if out is None else Path(out),
            # Their hash is known when they are kept.
            "data": f"arrays:0?loop={name}",
            # Nobody's answers but the caller's labels are learnt.
            "distillation": 0.0,
        }
        config = checked_config(asked, self._given)
        if config.oracle == "supernet":
            raise ConfigError(
                "oracle='supernet' trains a network of its own on labelled images: "
                "give 'finetune' or 'recalibrate'"
            )
        config = keep_given_images(images, config, progress)
        return go_on(RunFolder.create(config), progress, self._given)

    @property
    def _object_name(self) -> str:
        assert self._given.model is not None, "checked in the beginning"
        return object_name(self._given.model)

    def _given_images(self, name: str) -> GivenImages:
        """Give the images with blank labels, which nothing looks at."""
        labels = None
        if isinstance(self._images, np.ndarray) or hasattr(self._images, "detach"):
            labels = np.zeros(len(self._images), np.int64)
        if hasattr(self._images, "__len__") and len(self._images) < _LEAST_IMAGES:
            raise ConfigError(
                f"there are {len(self._images)} images: give {_LEAST_IMAGES} or more; batch norms "
                "are better set by some hundreds"
            )
        return GivenImages(images=self._images, labels=labels, normalise=self._normalise, loop=name)

    def _resumed(self, path: Path, progress: ProgressLog) -> PruneResult:
        folder = RunFolder.resume(path)
        check_names(folder.config, self._given)
        name = loop_name(folder.config.data)
        if self._name not in (None, name):
            raise ConfigError(
                f"{path} is a run of the functions {name!r}, and these are {self._name!r}: "
                "begin a new run"
            )
        kept = keep_given_images(self._given_images(name), folder.config, progress)
        if parse_data(kept.data).name != parse_data(folder.config.data).name:
            raise ConfigError(
                f"{path} is a run with other images: give the same ones, or begin anew"
            )
        return go_on(folder, progress, self._given)


def _refuse(options: Mapping[str, object]) -> None:
    """Refuse options of `prune` that fit no loop of the caller's."""
    if refused := sorted(_OF_PRUNE & options.keys()):
        raise ConfigError(
            f"{refused[0]} is for cprune_rl.prune, which trains and judges by itself; here your "
            "functions do so: leave it out"
        )
