"""How accurate the predictor is on a network that it was not fitted on, and whether to rely on it.

Each network is left out once, on all devices. The predictor learns from the tasks of the others.
It is evaluated on the tasks and plans of this one. Those plans consist of measured tasks, so their
true latencies are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
from scipy.stats import spearmanr

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.errors import DataError
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.latency.task_features import LatencySample

from .plan_choice_regret import PlanChoiceRegret, evaluate_plan_choice

__all__ = ["BAR", "Bar", "Evaluation", "MeasuredNetwork", "evaluate", "leave_one_network_out"]

_NARROW = 0.2  # half-width of an interval


@dataclass(frozen=True)
class Bar:
    """What leave-one-network-out must show before prediction is worth switching on.

    Attributes:
        error: median relative error of a task, at most.
        coverage: share of tasks inside the 90 % interval, at least.
        regret: median of how much slower a predicted choice is than the best one, at most.
    """

    error: float = 0.10
    coverage: float = 0.85
    regret: float = 0.02

    def holds(self, evaluations: Sequence[Evaluation]) -> bool:
        """Whether it holds for the medians of errors and regrets and the mean of coverages."""
        regrets = [e.plan_choice.regret for e in evaluations if e.plan_choice is not None]
        return (
            bool(regrets)
            and float(np.mean([e.coverage for e in evaluations])) >= self.coverage
            and median(e.median_error for e in evaluations) <= self.error
            and median(regrets) <= self.regret
        )


BAR = Bar()


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A network on a device with measured tasks, as a recorded problem holds it.

    Attributes:
        network: its subgraphs.
        costs: measured tasks.
        loss_model: predicts the loss of each group.
        device: figures of the device.
        device_name: for tables.
    """

    network: Network
    costs: Sequence[tuple[Workload, TaskCost]]
    loss_model: LossModel
    device: DeviceDescriptor
    device_name: str = ""

    def samples(self, is_dense_known: bool = False) -> list[LatencySample]:
        """Its tasks, for the predictor; the dense network's are anchors if they are known."""
        dense = self.network.workloads(self.network.dense) if is_dense_known else []
        anchors = {workload.key for workload in dense}
        return [
            LatencySample(
                workload=workload,
                cost=cost,
                device=self.device,
                origin=self.network.name,
                is_anchor=workload.key in anchors,
            )
            for workload, cost in self.costs
        ]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The predictor on one network that it was not fitted on, on one device.

    Errors and widths are shares.

    Attributes:
        network: the one left out.
        device: where.
        n_tasks: evaluated. A shape that was measured there for another network is known, so it is
            not among them.
        rank_correlation: Spearman's, of predicted with measured latencies.
        median_error: of one task.
        p90_error: its 90th percentile.
        coverage: share of tasks inside the 90 % interval.
        width: median half-width of the interval.
        narrow_share: of tasks whose half-width is at most 20 %.
        plan_choice: choices by it; None where the recording is too small to evaluate them.
    """

    network: str
    device: str
    n_tasks: int
    rank_correlation: float
    median_error: float
    p90_error: float
    coverage: float
    width: float
    narrow_share: float
    plan_choice: PlanChoiceRegret | None = None

    def to_json(self) -> dict[str, str | int | float]:
        """Plain values, rounded, those of `plan_choice` among the others."""
        values = asdict(self)
        values |= values.pop("plan_choice") or {}
        return {n: round(v, 4) if isinstance(v, float) else v for n, v in values.items()}


def leave_one_network_out(
    measured: Sequence[MeasuredNetwork], is_dense_known: bool = False, seed: int = 0
) -> list[Evaluation]:
    """Evaluates the predictor on every network by what it learns from the others.

    Args:
        measured: networks on devices; at least three networks, two to learn from and to calibrate
            on.
        is_dense_known: whether it also learns the tasks of the dense network left out. A run tunes
            these first.
        seed: of trees, plans and draws.

    Raises:
        DataError: fewer than three networks, or too few tasks.
    """
    names = list(dict.fromkeys(m.network.name for m in measured))
    if len(names) < 3:
        raise DataError(
            f"leaving one network out takes three, found {', '.join(names) or 'none'}: "
            "record more with `cprune-rl record`"
        )
    samples = [sample for m in measured for sample in m.samples(is_dense_known)]
    evaluations = []
    for name in names:
        learnt = [s for s in samples if s.origin != name or s.is_anchor]
        predictor = LatencyPredictor.fit(learnt, seed=seed)
        left_out = [m for m in measured if m.network.name == name]
        evaluations += [evaluate(predictor, m, learnt, seed=seed) for m in left_out]
    return evaluations


def evaluate(
    predictor: LatencyPredictor,
    measured: MeasuredNetwork,
    learnt: Sequence[LatencySample] = (),
    seed: int = 0,
) -> Evaluation:
    """Evaluates a predictor on one network.

    Args:
        predictor: fitted without this network.
        measured: the network.
        learnt: what it was fitted on. A shape measured there on the same device is known: it is not
            evaluated, and choices take it as it is.
        seed: of plans and draws.

    Raises:
        DataError: nothing is left to evaluate.
    """
    known_s = {s.workload.key: s.cost.latency_s for s in learnt if s.device == measured.device}
    unknown = [(w, cost) for w, cost in measured.costs if w.key not in known_s]
    if len(unknown) < 2:
        raise DataError(
            f"{measured.network.name}: every task was measured for another network, "
            "nothing is left to predict"
        )
    predictions = predictor.predict([w for w, _ in unknown], measured.device)
    estimates_s = known_s | {
        w.key: p.latency_s for (w, _), p in zip(unknown, predictions, strict=True)
    }
    predicted_s = np.array([p.latency_s for p in predictions])
    true_s = np.array([cost.latency_s for _, cost in unknown])
    errors = np.abs(predicted_s / true_s - 1)
    half_widths = np.array([p.half_width for p in predictions])
    is_covered = [p.low_s <= t <= p.high_s for p, t in zip(predictions, true_s, strict=True)]
    return Evaluation(
        network=measured.network.name,
        device=measured.device_name,
        n_tasks=len(unknown),
        rank_correlation=float(spearmanr(predicted_s, true_s).statistic),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        coverage=float(np.mean(is_covered)),
        width=float(np.median(half_widths)),
        narrow_share=float(np.mean(half_widths <= _NARROW)),
        plan_choice=evaluate_plan_choice(
            measured.network,
            measured.costs,
            estimates_s,
            loss_model=measured.loss_model,
            seed=seed,
        ),
    )
