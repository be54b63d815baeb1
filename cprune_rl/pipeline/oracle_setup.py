"""Makes the accuracy oracle that a run asks for, not yet calibrated.

A supernet is believed only where it ranks plans of equal latency as full fine-tunes do. Where it
does not, the short fine-tune takes its place, and the run says so.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.accuracy.oracle import (
    Evaluation,
    PlanOracle,
    RecalibrationEvaluation,
)
from cprune_rl.accuracy.supernet import PlanBounds, Supernet, SupernetSettings, train_supernet
from cprune_rl.accuracy.trainer import labelled_images
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.intervals import Interval, rank_correlation
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import CostStore
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.models.copies import copy_network
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.equal_latency import equal_latency_plans
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import CachedTraining, supernet_identity
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.channel_masks import ChannelMasks

__all__ = ["OracleSettings", "open_oracle", "short_finetune", "supernet_evaluation"]

# Below it a supernet ranks no better than a few steps of training, which are cheaper.
_LEAST_CORRELATION = 0.7
_LEAST_PLANS = 5  # fewer say nothing of a ranking
_SHORT_LEARNING_RATE = 0.02
_SHORT_WARMUP = 0.1  # share of the steps
_PROOF_SHARE = 0.5  # of the dense network's latency: where searches end up


@dataclass(frozen=True, kw_only=True)
class OracleSettings:
    """How plans are evaluated inside a search.

    Attributes:
        kind: finetune, supernet or recalibrate.
        short: the fine-tune of `finetune`.
        full: the fine-tune that a supernet is compared with.
        supernet: its training.
        n_proof_plans: plans of equal latency that a supernet has to rank.
        has_schemes: whether it has to rank plans with schemes too.
        seed: of those plans.
    """

    kind: str
    short: TrainSettings
    full: TrainSettings
    supernet: SupernetSettings
    n_proof_plans: int
    has_schemes: bool
    seed: int


def short_finetune(n_steps: int, seed: int) -> TrainSettings:
    """Give the training of `--oracle finetune`."""
    return TrainSettings(
        n_steps=n_steps, learning_rate=_SHORT_LEARNING_RATE, warmup=_SHORT_WARMUP, seed=seed
    )


def open_oracle(
    settings: OracleSettings,
    trained_model: TrainedModel,
    backend: LatencyBackend,
    store: CostStore,
    since: float,
    progress: ProgressLog,
) -> PlanOracle:
    """Make the oracle; train its supernet and compare it with full fine-tunes where it has one.

    Args:
        backend: whose latencies make plans of equal latency.
        store: keeps every answer.
        since: see `PlanOracle`.
    """
    make = functools.partial(
        PlanOracle,
        trainer=trained_model.trainer,
        store=store,
        dense_accuracy=trained_model.dense_accuracy,
        since=since,
    )
    short = trained_model.finetuned(settings.short)
    if settings.kind == "finetune":
        return make(evaluation=short)
    if settings.kind == "recalibrate":
        evaluation = RecalibrationEvaluation(
            pruner=trained_model.pruned,
            weights=trained_model.weights,
            trainer=trained_model.trainer,
        )
        return make(evaluation=evaluation)
    supernet = supernet_evaluation(settings.supernet, trained_model, progress)
    reference = make(evaluation=supernet).evaluate_all([backend.network.dense])[0]
    oracle = make(evaluation=supernet, reference=reference)
    is_believed, note = _compare_with_full(settings, oracle, trained_model, backend, progress)
    if is_believed:
        oracle.note = note
        return oracle
    progress.print(
        f"    {note}: the supernet is not believed, "
        f"plans are judged by {settings.short.n_steps} steps of training each"
    )
    return make(evaluation=short)


def supernet_evaluation(
    settings: SupernetSettings, trained_model: TrainedModel, progress: ProgressLog
) -> RecalibrationEvaluation:
    """Train a supernet, or read it where the same training was done before."""
    groups = trained_model.coupled.groups
    supernet = Supernet(
        copy_network(trained_model.model),
        masks=ChannelMasks(trained_model.model, trained_model.coupled).for_plan,
        bounds=PlanBounds(tuple(g.channels for g in groups), tuple(g.minimum for g in groups)),
    )
    data = labelled_images(trained_model.trainer, "oracle='supernet'")
    identity = supernet_identity(trained_model.weights, supernet.bounds)
    cached = CachedTraining(identity=identity, trainer=trained_model.trainer, settings=settings)
    checkpoint = cached.path.with_suffix(".checkpoint")
    verb = "Reading" if cached.is_done else "Training"
    with progress.track(f"{verb} the supernet", settings.n_steps) as advance:
        cached.load_or_train(
            supernet.model,
            lambda: train_supernet(
                supernet, data, settings, checkpoint=checkpoint, on_step=advance
            ),
        )
    return RecalibrationEvaluation(
        pruner=functools.partial(trained_model.pruned_of, supernet.model),
        weights=f"supernet:{network_hash(supernet.model)}",
        trainer=trained_model.trainer,
        name="supernet",
    )


def _compare_with_full(
    settings: OracleSettings,
    oracle: PlanOracle,
    trained_model: TrainedModel,
    backend: LatencyBackend,
    progress: ProgressLog,
) -> tuple[bool, str]:
    """Compare a supernet with full fine-tunes on plans of equal latency.

    Returns:
        Whether it is believed, and why.
    """
    network = backend.network
    latency = InterpolatedLatency(network, backend.interpolator)
    kinds = [False]
    if settings.has_schemes and network.scheme_layers:
        kinds.append(True)
    notes = []
    for by_schemes in kinds:
        plans = equal_latency_plans(
            network,
            latency,
            _PROOF_SHARE,
            count=settings.n_proof_plans,
            seed=settings.seed,
            by_schemes=by_schemes,
        )
        what = f"plans of equal latency{', pruned by schemes' if by_schemes else ''}"
        if len(plans) < _LEAST_PLANS:
            return False, f"There are only {len(plans)} {what} to ask it about"
        full = trained_model.finetuned(settings.full, is_gradual=by_schemes)
        correlation = _rank_correlation(oracle, full, plans, progress)
        interval = f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"
        progress.print(
            f"    It ranks {len(plans)} {what} as full fine-tunes do "
            f"with a rank correlation of {interval}"
        )
        if correlation.value < _LEAST_CORRELATION:
            return False, f"Below {_LEAST_CORRELATION:g}"
        notes.append(f"over {len(plans)} {what}: {interval}")
    return True, f"rank correlation with full fine-tunes {'; '.join(notes)}"


def _rank_correlation(
    oracle: PlanOracle, full: Evaluation, plans: Sequence[Plan], progress: ProgressLog
) -> Interval:
    with progress.track("Asking the supernet to earn its place", 2 * len(plans)) as advance:
        judged = oracle.evaluate_all(plans, on_plan=advance)
        truth = oracle.evaluate_all(plans, full, on_plan=lambda done: advance(len(plans) + done))
    return rank_correlation(np.array(judged), np.array(truth))
