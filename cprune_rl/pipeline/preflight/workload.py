"""Estimates how long `cprune-rl prune` takes on a network, by effort."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from cprune_rl.accuracy.training import TrainSettings, autocast, on_device
from cprune_rl.models.side_heads import SideHeads
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.preflight.objective import Objective
from cprune_rl.pruning.slices import trainable_copy

__all__ = ["RunCosts", "estimate_minutes", "time_train_step"]

# Guesses at what of the work that could be done is done. They are fitted to no runs.
_KEPT_FORMS = 1.3  # forms of a task that are still tuned after the survey
_TUNED_SHARE = 0.5  # of the trials that such a task may have
_NEAR_SHAPES = 2.0  # times the trials of one more shape, for all that a search asks for
_N_TIMED = 3


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """What the parts of a run cost.

    Attributes:
        n_tasks: unique tasks of the dense network in all forms.
        n_forms: in which it can be compiled.
        trial_s: seconds that one schedule takes to build and time.
        step_s: seconds of a training step.
        has_weights: whether the base network needs no training.
    """

    n_tasks: int
    n_forms: int
    trial_s: float
    step_s: float
    has_weights: bool


def time_train_step(model: nn.Module, image_shape: tuple[int, ...], objective: Objective) -> float:
    """Time a training step on drawn images, in seconds: the median of a few."""
    n_images = TrainSettings.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((n_images, *image_shape), generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    copied = trainable_copy(model).train()
    heads = SideHeads(copied)
    seconds = []
    with on_device(copied, images.device):
        for _ in range(_N_TIMED):
            started = time.perf_counter()
            with autocast(images.device):
                output = copied(images)
            loss = objective.loss(heads.split(output, images))
            loss.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def estimate_minutes(costs: RunCosts) -> dict[str, float]:
    """Estimate the minutes of `cprune-rl prune`, by effort.

    The costs are measured, the counts are guesses: a run may take several times as long, or as
    short.
    """
    return {name: _seconds(effort, costs) / 60 for name, effort in EFFORTS.items()}


def _seconds(effort: Effort, costs: RunCosts) -> float:
    tuning = effort.tuning
    n_kept = costs.n_tasks / costs.n_forms * min(_KEPT_FORMS, costs.n_forms)
    trials = float(costs.n_tasks * tuning.survey.n_max)
    trials += n_kept * max(tuning.dense.n_max - tuning.survey.n_max, 0) * _TUNED_SHARE
    trials += n_kept * tuning.near.n_max * _NEAR_SHAPES
    # the dense network is fine-tuned too
    n_full = 1 + len(effort.calibration) + effort.n_full
    steps = effort.finetune_steps * n_full
    steps += effort.oracle_steps * (len(effort.calibration) + effort.n_cheap)
    if not costs.has_weights:
        steps += effort.base_steps
    return trials * costs.trial_s + steps * costs.step_s
