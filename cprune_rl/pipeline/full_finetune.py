"""The full fine-tune: what the networks of plans get, and the dense network beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.network import Plan
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import CachedTraining
from cprune_rl.pipeline.trained_model import GRADUAL_PRUNING, TrainedModel, gradual_pruning
from cprune_rl.pruning.scheme_masks import bake_masks

__all__ = ["FinishedTraining", "finetune_in_full", "full_finetune"]

_LEARNING_RATE = 0.05
_WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class FinishedTraining:
    """A network after the full fine-tune, and the training that the caches keep."""

    model: nn.Module
    cached: CachedTraining


def finetune_in_full(
    trained_model: TrainedModel,
    plan: Plan,
    settings: TrainSettings,
    progress: ProgressLog,
    what: str,
) -> FinishedTraining:
    """Prune the network by a plan, and fine-tune it on the labels and on the network's answers.

    Args:
        trained_model: gives the starting weights, the teacher, and what trains.
        plan: what is kept; the dense plan too, whose network is then taught by itself.
        settings: of the training.
        progress: shows it.
        what: is being done, for the progress.
    """
    model = trained_model.pruned(plan)
    identity = f"plan:{network_hash(model)}:of:{trained_model.weights}"
    prune_further = gradual_pruning(model, plan, settings.n_steps)
    if prune_further is not None:
        identity += f":{plan.schemes}:{GRADUAL_PRUNING}"
    trainer = trained_model.trainer
    trainer.recalibrate(model)
    cached = CachedTraining(identity=identity, trainer=trainer, settings=settings)
    with progress.track(what, settings.n_steps) as advance:

        def on_step(step: int, loss: float) -> None:
            advance(step)
            if prune_further is not None:
                prune_further(step, loss)

        def train_model() -> None:
            trainer.train(model, settings, on_step, trained_model.model)

        finished = bake_masks(cached.load_or_train(model, train_model))
    return FinishedTraining(finished, cached)


def full_finetune(config: RunConfig) -> TrainSettings:
    """Give the training of finalists, and of the plans of the calibration.

    `efforts.py` has the number of steps.
    """
    return TrainSettings(
        n_steps=config.work.finetune_steps,
        learning_rate=_LEARNING_RATE,
        warmup=_WARMUP,
        seed=config.seed,
        distillation=config.distillation,
    )
