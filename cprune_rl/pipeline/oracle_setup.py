"""The run's accuracy oracle: made as `--oracle` says, asked to earn its place, calibrated.

A supernet is believed only where it ranks plans of equal latency as full fine-tunes do; where it
does not, the
short fine-tune takes its place, and the run says so. Called by `job.assemble`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np

from cprune_rl.accuracy.calibration import CalibrationPoint, Calibrations
from cprune_rl.accuracy.oracle import Evaluation, PlanOracle, RecalibrationEvaluation
from cprune_rl.accuracy.supernet import PlanSpace, Supernet, SupernetSettings
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.intervals import Interval, rank_correlation
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource
from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, Scheme
from cprune_rl.cost_cache import CostStore
from cprune_rl.envs.actions.layer_schemes import SCHEME_SHAPES, SchemeShape, prunable_layers
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.context import RunContext, full_settings
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import is_supernet_cached, train_or_load_supernet
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.channel_masks import ChannelMasks

__all__ = ["calibrate", "equal_latency_plans", "open_oracle", "supernet_evaluation"]

# below it a supernet ranks no better than a few steps of training, which are cheaper than believing
# it
_LEAST_CORRELATION = 0.7
_LEAST_PLANS = 5  # fewer say nothing of a ranking
_BLOCK = 8  # channels, of the plans that the oracle is calibrated on
_PROOF_SHARE = 0.5  # of the dense network's latency: where searches end up
# times the share that the last plan keeps, where no plan of the calibration lost as much as the
# floor allows
_FURTHER = 0.75
_MOST_FURTHER = 2  # plans
_SPREAD = 0.6  # of the logarithms of how fast groups, or layers, go
_SPARSEST = 0.03  # density


def open_oracle(
    config: RunConfig,
    trained_model: TrainedModel,
    network: Network,
    costs: LatencyInterpolator,
    store: CostStore,
    dense_accuracy: float,
    since: float,
    progress: ProgressLog,
) -> PlanOracle:
    """Makes the oracle that a run asks for.

    Args:
        config: of the run.
        trained_model: what is judged.
        network: its description, for plans of equal latency.
        costs: of its tasks, for the same.
        store: keeps every answer.
        dense_accuracy: on the search images.
        since: see `PlanOracle`.
        progress: told what is going on.
    """
    kind, _, steps = config.oracle.partition(":")
    short = trained_model.finetuned(
        TrainSettings(
            n_steps=int(steps or config.budgets.oracle_steps),
            learning_rate=0.02,
            warmup=0.1,
            seed=config.seed,
        )
    )
    make = functools.partial(
        PlanOracle, data=trained_model.data, store=store, dense_accuracy=dense_accuracy, since=since
    )
    if kind == "finetune":
        return make(evaluation=short)
    if kind == "recalibrate":
        return make(
            evaluation=RecalibrationEvaluation(
                pruner=trained_model.pruned, weights=trained_model.weights, data=trained_model.data
            )
        )
    supernet = supernet_evaluation(config, trained_model, progress)
    reference = make(evaluation=supernet).evaluate(network.dense)
    oracle = make(evaluation=supernet, reference=reference)
    instead = f"the supernet is not believed, plans are judged by {short.settings.n_steps} steps of training each"
    notes = []
    for by_schemes in (False, True) if config.has_schemes and network.scheme_layers else (False,):
        plans = equal_latency_plans(
            network,
            InterpolatedLatency(network, costs),
            _PROOF_SHARE,
            config.budgets.proof_plans,
            config.seed,
            by_schemes,
        )
        what = f"plans of equal latency{', pruned by schemes' if by_schemes else ''}"
        if len(plans) < _LEAST_PLANS:
            progress.print(f"    There are only {len(plans)} {what} to ask it about: {instead}")
            return make(evaluation=short)
        correlation = _proof(
            oracle,
            trained_model.finetuned(full_settings(config), is_gradual=by_schemes),
            plans,
            what,
            progress,
        )
        if correlation.value < _LEAST_CORRELATION:
            progress.print(f"    Below {_LEAST_CORRELATION:g}: {instead}")
            return make(evaluation=short)
        notes.append(
            f"over {len(plans)} {what}: {correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"
        )
    oracle.note = f"rank correlation with full fine-tunes {'; '.join(notes)}"
    return oracle


def supernet_evaluation(
    config: RunConfig, trained_model: TrainedModel, progress: ProgressLog
) -> RecalibrationEvaluation:
    """Trains the supernet, or reads it where it was trained before.

    Args:
        config: of the run.
        trained_model: what is judged.
        progress: told what is going on.
    """
    groups = trained_model.coupled.groups
    supernet = Supernet(
        copy.deepcopy(trained_model.model),
        masks=ChannelMasks(trained_model.model, trained_model.coupled).for_plan,
        space=PlanSpace(tuple(g.channels for g in groups), tuple(g.minimum for g in groups)),
    )
    settings = SupernetSettings(n_steps=config.budgets.supernet_steps, seed=config.seed)
    verb = (
        "Reading"
        if is_supernet_cached(trained_model.weights, supernet.space, trained_model.data, settings)
        else "Training"
    )
    with progress.track(f"{verb} the supernet", settings.n_steps) as advance:
        trained = train_or_load_supernet(
            supernet, trained_model.weights, trained_model.data, settings, on_step=advance
        )
    return RecalibrationEvaluation(
        pruner=functools.partial(trained_model.pruned_of, trained),
        weights=f"supernet:{network_hash(trained)}",
        data=trained_model.data,
        name="supernet",
    )


def _proof(
    oracle: PlanOracle, full: Evaluation, plans: Sequence[Plan], what: str, progress: ProgressLog
) -> Interval:
    """Rank correlation of the supernet with full fine-tunes, on plans that nothing but accuracy
    tells apart.
    """
    with progress.track("Asking the supernet to earn its place", 2 * len(plans)) as advance:
        judged = oracle.evaluate_all(plans, on_plan=advance)
        truth = oracle.evaluate_all(plans, full, on_plan=lambda done: advance(len(plans) + done))
    found = rank_correlation(np.array(judged), np.array(truth))
    progress.print(
        f"    It ranks {len(plans)} {what} as full fine-tunes do with a rank correlation of {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    )
    return found


def equal_latency_plans(
    network: Network,
    costs: LatencySource,
    share: float,
    count: int,
    seed: int,
    by_schemes: bool = False,
) -> list[Plan]:
    """Random plans whose latency is the same share of the dense network's, within 3 % where there
    are enough of them.

    Args:
        network: whose plans.
        costs: of its tasks.
        share: of the dense latency, in (0, 1).
        count: how many.
        seed: same seed, same plans.
        by_schemes: whether layers are pruned by schemes, in the place of channels.
    """
    rng = np.random.default_rng(seed)

    def latency(plan: Plan) -> float:
        return sum(c.latency_s for c in costs.predict(network.workloads(plan)))

    wanted = share * latency(network.dense)
    found: list[Plan] = []
    nearest: list[tuple[float, Plan]] = []
    for _ in range(40 * count):
        along = _scheme_direction(network, rng) if by_schemes else _channel_direction(network, rng)
        low, high = 0.0, 6.0
        for _ in range(18):  # the exponent of the kept ratio, by bisection
            middle = (low + high) / 2
            plan = along(middle)
            low, high = (middle, high) if latency(plan) > wanted else (low, middle)
        error = abs(latency(plan) / wanted - 1)
        nearest.append((error, plan))
        if error <= 0.03 and plan not in found:
            found.append(plan)
        if len(found) == count:
            return found
    return list(
        dict.fromkeys([*found, *(plan for _, plan in sorted(nearest, key=lambda item: item[0]))])
    )[:count]


def _channel_direction(network: Network, rng: np.random.Generator) -> Callable[[float], Plan]:
    """Ever narrower plans by an exponent of the kept ratios, each group at a pace of its own."""
    channels, minimum = (
        np.array([getattr(g, name) for g in network.groups]) for name in ("channels", "minimum")
    )
    pace = np.exp(rng.normal(0.0, _SPREAD, len(channels)))
    return lambda exponent: Plan(
        tuple(
            int(w)
            for w in np.clip(np.round(channels * np.exp(-exponent * pace)), minimum, channels)
        )
    )


def _scheme_direction(network: Network, rng: np.random.Generator) -> Callable[[float], Plan]:
    """Ever sparser plans by an exponent of the density, each layer with a shape and at a pace of
    its own.
    """
    shapes: dict[str, SchemeShape] = {}
    for layer in network.scheme_layers:
        allowed = [
            shape for shape in SCHEME_SHAPES if layer in prunable_layers(network, shape.kind)
        ]
        shapes[layer] = allowed[int(rng.integers(len(allowed)))]
    pace = np.exp(rng.normal(0.0, _SPREAD, len(shapes)))

    def plan(exponent: float) -> Plan:
        densities = {
            layer: round(max(float(np.exp(-exponent * p)), _SPARSEST), 3)
            for layer, p in zip(shapes, pace, strict=True)
        }
        most = {
            layer: MAX_PATTERN_DENSITY if shape.kind == "pattern" else 1.0
            for layer, shape in shapes.items()
        }
        return Plan(
            network.dense.widths,
            tuple(
                (layer, str(Scheme(*shapes[layer], d)))
                for layer, d in densities.items()
                if d < most[layer]
            ),
        )

    return plan


def calibrate(context: RunContext, progress: ProgressLog) -> None:
    """Fine-tunes a few uniform plans in full:

    they calibrate the oracle, and tell how much accuracy channels, and schemes, are worth.
    """
    config, network = context.config, context.network
    narrow = _fine_tuned(
        context,
        progress,
        "channels",
        lambda shares: [network.uniform(r) for r in shares],
        config.budgets.calibration,
    )
    sparse = (
        _fine_tuned(
            context,
            progress,
            "schemes",
            lambda densities: _sparse_plans(network, densities),
            config.budgets.scheme_calibration,
        )
        if config.has_schemes
        else []
    )
    context.calibration_points += [*narrow, *sparse]
    context.calibrations = Calibrations.fit(context.calibration_points, network.dense.widths)
    kept = np.array([p.plan.widths for p in narrow]) / np.array(network.dense.widths)
    context.loss_model = LossModel.fit_uniform(kept, np.array([p.full_loss for p in narrow]))
    if sparse:
        context.loss_model = context.loss_model.with_fitted_layers(
            network, [p.plan for p in sparse], np.array([p.full_loss for p in sparse])
        )


def _fine_tuned(
    context: RunContext,
    progress: ProgressLog,
    what: str,
    plans_at: Callable[[Sequence[float]], list[Plan]],
    shares: Sequence[float],
) -> list[CalibrationPoint]:
    """Plans that keep such shares, and further ones until one loses more than the lowest floor
    allows: between its points a calibration is sure, beyond them it is a guess.

    Args:
        context: the run's parts.
        progress: told what is going on.
        what: is pruned.
        plans_at: plans that keep shares.
        shares: in (0, 1].
    """
    config, oracle = context.config, context.oracle
    full = context.trained_model.finetuned(full_settings(config), is_gradual=what == "schemes")
    slack = max(
        context.dense_accuracy - resolve_floor(floor, context.dense_accuracy, may_exceed=True)
        for floor in config.front or (config.floor,)
    )

    def judged(plans: Sequence[Plan]) -> list[CalibrationPoint]:
        if not plans:
            return []
        with progress.track(
            f"Calibrating the accuracy oracle on {what}", 2 * len(plans)
        ) as advance:
            seen = oracle.losses(plans, advance)
            true = oracle.evaluate_all(plans, full, lambda done: advance(len(plans) + done))
        return [
            CalibrationPoint(plan, raw, context.dense_accuracy - accuracy)
            for plan, raw, accuracy in zip(plans, seen, true, strict=True)
        ]

    tried, points = list(shares), judged(plans_at(shares))
    while (
        points
        and max(p.full_loss for p in points) <= slack
        and len(tried) < len(shares) + _MOST_FURTHER
    ):
        tried.append(min(tried) * _FURTHER)
        known = {p.plan for p in points}
        points += judged([plan for plan in plans_at(tried) if plan not in known])
    return points


def _sparse_plans(network: Network, densities: Sequence[float]) -> list[Plan]:
    """All layers pruned by schemes:

    kernels where there are 3x3 ones, in every other plan, and blocks.
    """
    layers, with_kernels = (
        prunable_layers(network, "block"),
        set(prunable_layers(network, "kernel")),
    )

    def scheme(layer: str, at: int, density: float) -> Scheme:
        return Scheme(
            "kernel" if layer in with_kernels and at % 2 == 0 else "block", _BLOCK, density
        )

    return [
        Plan(network.dense.widths, tuple((layer, str(scheme(layer, at, d))) for layer in layers))
        for at, d in enumerate(densities)
        if layers
    ]
