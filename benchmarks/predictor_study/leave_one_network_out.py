"""How good the predictor is on a network that it has not seen, and whether that is good enough to
rely on.

Each network is left out once, on all devices; the tasks of the others teach the predictor, and the
tasks and plans
of the network left out judge it. Plans are made of measured tasks alone, so the truth is measured
too. Called by
`benchmarks/predictor.py`.
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
from cprune_rl.latency.predictor import LatencyPredictor, Prediction
from cprune_rl.latency.task_features import Sample

from .plan_choice_regret import Decisions, judge_decisions

__all__ = ["BAR", "Bar", "Judgement", "MeasuredNetwork", "judge", "leave_one_network_out"]

_NARROW = 0.2


@dataclass(frozen=True)
class Bar:
    """What leave-one-network-out must show before prediction is worth switching on; see `holds`.

    Attributes:
        error: median relative error of a task, at most.
        coverage: share of tasks inside the 90 % interval, at least.
        regret: how much slower a decision taken by prediction is than the best, median, at most.
    """

    error: float = 0.10
    coverage: float = 0.85
    regret: float = 0.02

    def holds(self, judgements: Sequence[Judgement]) -> bool:
        """Whether it holds over all networks and devices:

        medians of errors and regrets, mean of coverages.
        """
        regrets = [j.decisions.regret for j in judgements if j.decisions is not None]
        if not regrets or float(np.mean([j.coverage for j in judgements])) < self.coverage:
            return False
        return (
            median(j.median_error for j in judgements) <= self.error
            and median(regrets) <= self.regret
        )


BAR = Bar()


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network on a device with measured tasks: what a recorded problem holds.

    Attributes:
        network: its subgraphs.
        costs: measured tasks.
        loss_model: predicted loss of each group.
        device: figures of the device.
        device_name: for tables.
    """

    network: Network
    costs: Sequence[tuple[Workload, TaskCost]]
    loss_model: LossModel
    device: DeviceDescriptor
    device_name: str = ""

    def samples(self, is_dense_known: bool = False) -> list[Sample]:
        """Its tasks, for the predictor;

        those of the dense network are anchors where they are known to whoever predicts.
        """
        dense = (
            {w.key for w in self.network.workloads(self.network.dense)} if is_dense_known else set()
        )
        return [
            Sample(workload, cost, self.device, self.network.name, workload.key in dense)
            for workload, cost in self.costs
        ]


@dataclass(frozen=True)
class Judgement:
    """The predictor on one network that it has not seen, on one device.

    Errors and widths are shares.

    Attributes:
        network: the one left out.
        device: where.
        n_tasks: judged; a shape that the others had measured there is known, not predicted, and is
            not judged.
        rank_correlation: Spearman's, of predicted with measured latencies.
        median_error: of one task.
        p90_error: its 90th percentile.
        coverage: share of tasks inside the 90 % interval.
        width: median half-width of the interval.
        narrow_share: of tasks whose half-width is at most 20 %.
        decisions: taken by it; None where the recording is too small to judge them.
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
    decisions: Decisions | None = None

    def to_json(self) -> dict[str, str | int | float]:
        """Plain values, rounded, those of the decisions among the others."""
        values = {**asdict(self), **(asdict(self.decisions) if self.decisions else {})}
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in values.items()
            if name != "decisions"
        }


def leave_one_network_out(
    measured: Sequence[MeasuredNetwork], is_dense_known: bool = False, seed: int = 0
) -> list[Judgement]:
    """Judges the predictor on every network by what the others teach it.

    Args:
        measured: networks on devices; at least three networks, two to learn from and to calibrate
            on.
        is_dense_known: whether the tasks of the dense network left out teach it too, as in a run,
            which tunes them first.
        seed: of trees, plans and draws.

    Raises:
        DataError: fewer than three networks, or too few tasks.
    """
    names = list(dict.fromkeys(m.network.name for m in measured))
    if len(names) < 3:
        raise DataError(
            f"leaving one network out takes three, found {', '.join(names) or 'none'}: record more with `cprune-rl record`"
        )
    judgements = []
    for name in names:
        taught = [
            s
            for m in measured
            for s in m.samples(is_dense_known)
            if m.network.name != name or s.is_anchor
        ]
        predictor = LatencyPredictor.fit(taught, seed=seed)
        judgements += [
            judge(predictor, m, taught, seed) for m in measured if m.network.name == name
        ]
    return judgements


def judge(
    predictor: LatencyPredictor,
    measured: MeasuredNetwork,
    taught: Sequence[Sample] = (),
    seed: int = 0,
) -> Judgement:
    """Judges a predictor on one network.

    Args:
        predictor: fitted without this network.
        measured: the network.
        taught: what it was fitted on: a shape measured there on the same device is known, so it is
            not judged, and decisions take it as it is.
        seed: of plans and draws.

    Raises:
        DataError: nothing is left to judge.
    """
    known_s = {s.workload.key: s.cost.latency_s for s in taught if s.device == measured.device}
    costs = [(w, c) for w, c in measured.costs if w.key not in known_s]
    if len(costs) < 2:
        raise DataError(
            f"{measured.network.name}: every task was measured for another network, nothing is left to predict"
        )
    found = {
        w.key: p
        for (w, _), p in zip(
            costs, predictor.predict([w for w, _ in costs], measured.device), strict=True
        )
    }
    estimates = known_s | {key: p.latency_s for key, p in found.items()}
    decisions = judge_decisions(
        measured.network, measured.costs, estimates, measured.loss_model, seed
    )
    return Judgement(
        measured.network.name,
        measured.device_name,
        len(costs),
        *_judge_tasks([(found[w.key], c.latency_s) for w, c in costs]),
        decisions,
    )


def _judge_tasks(
    pairs: Sequence[tuple[Prediction, float]],
) -> tuple[float, float, float, float, float, float]:
    """The figures of `Judgement` from `rank_correlation` to `narrow_share`."""
    predicted, true = np.array([p.latency_s for p, _ in pairs]), np.array([t for _, t in pairs])
    errors, widths = np.abs(predicted / true - 1), np.array([p.half_width for p, _ in pairs])
    rank = float(spearmanr(predicted, true).statistic)
    coverage = float(np.mean([p.low_s <= t <= p.high_s for p, t in pairs]))
    return (
        rank,
        float(np.median(errors)),
        float(np.quantile(errors, 0.9)),
        coverage,
        float(np.median(widths)),
        float(np.mean(widths <= _NARROW)),
    )
