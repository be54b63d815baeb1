"""Latencies of a plan: measured, else predicted if the interval is narrow, else measured now.

Off unless a run asks for it (`--predict`). A prediction says that it is one
(`TaskCost.is_measured`, `interval_s`), and a search's history states the share of each candidate
that rests on predictions. The final comparison always measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.errors import ConfigError
from cprune_rl.latency.predictor import LatencyPredictor

__all__ = ["PredictedLatency"]

_SMALL_SHARE = 0.02  # of the dense network's latency


class PredictedLatency:
    """A source that is not asked to measure where the predictor is sure enough.

    A source measures whole plans, because the layouts of neighbours are chosen together. So one
    task that is too uncertain has its plan measured. What was once measured is never predicted.

    Args:
        network: whose plans are asked for.
        source: measures. Its predictions say what it has measured; elsewhere they give the tile
            factors of the nearest task.
        predictor: of tasks that were never measured.
        device: figures of the device.
        max_half_width: of an interval, as a share of the latency, up to which a prediction is used;
            above 0. A task below 2 % of the dense network, where that is measured, is held to a
            share of these 2 %: no plan is measured for the sake of a pooling.

    Raises:
        ConfigError: `max_half_width` is not above 0.
    """

    def __init__(
        self,
        network: Network,
        source: LatencySource,
        *,
        predictor: LatencyPredictor,
        device: DeviceDescriptor,
        max_half_width: float,
    ) -> None:
        if not max_half_width > 0:
            raise ConfigError(
                f"the widest interval to believe is {max_half_width!r}, it must be above 0, such "
                "as 0.1; without prediction the source is used as it is"
            )
        self._network = network
        self._source = source
        self._predictor = predictor
        self._device = device
        self._max_half_width = max_half_width
        self._predictions: dict[str, TaskCost | None] = {}  # None: too uncertain
        dense = source.predict(network.workloads(network.dense))
        is_dense_measured = all(c.is_measured and c.error is None for c in dense)
        dense_s = sum(c.latency_s for c in dense) if is_dense_measured else 0.0
        self._small_s = _SMALL_SHARE * dense_s

    @property
    def spending(self) -> Spending:
        """Running totals of the source: a prediction spends nothing."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Measures, unless every task that was not measured is predicted narrowly enough."""
        workloads = self._network.workloads(plan)
        costs = self._narrow_costs(workloads, self._source.predict(workloads))
        narrow = [cost for cost in costs if cost is not None]
        return narrow if len(narrow) == len(costs) else self._source.measure(plan)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Measured costs, else narrow predictions, else what the source predicts."""
        guesses = self._source.predict(workloads)
        costs = self._narrow_costs(workloads, guesses)
        return [cost or guess for cost, guess in zip(costs, guesses, strict=True)]

    def _narrow_costs(
        self, workloads: Sequence[Workload], guesses: Sequence[TaskCost]
    ) -> list[TaskCost | None]:
        """Measured or narrowly predicted costs; None for a task that has neither."""
        pairs = list(zip(workloads, guesses, strict=True))
        new = {
            w.key: (w, guess)
            for w, guess in pairs
            if not guess.is_measured and w.key not in self._predictions
        }
        predictions = self._predictor.predict([w for w, _ in new.values()], self._device)
        for (workload, guess), prediction in zip(new.values(), predictions, strict=True):
            half_width_s = prediction.half_width * prediction.latency_s
            allowed_s = self._max_half_width * max(prediction.latency_s, self._small_s)
            cost = replace(
                guess,
                latency_s=prediction.latency_s,
                is_measured=False,
                interval_s=(prediction.low_s, prediction.high_s),
            )
            self._predictions[workload.key] = cost if half_width_s <= allowed_s else None
        return [guess if guess.is_measured else self._predictions[w.key] for w, guess in pairs]
