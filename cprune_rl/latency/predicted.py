"""The estimate of a plan:

measured, else predicted where the interval is narrow enough, else measured now.

Off unless a run asks for it (`--predict`). What was predicted says so (`TaskCost.is_measured`,
`interval_s`), a
search's history states the share of each candidate that rests on it, and the final comparison
always measures.
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

_SMALL = 0.02  # of the dense network's latency


class PredictedLatency:
    """A measured source that is not asked where the predictor is sure enough (see
    `protocols.LatencySource`).

    A source measures whole plans, because the forms of neighbours are chosen together: one task
    that is too
    uncertain has its plan measured. What was once measured is never predicted.

    Args:
        network: whose plans are asked for.
        source: true looks; its cheap looks say what it has measured, and where it has not, the tile
            factors of the nearest task.
        predictor: of tasks that were never measured.
        device: figures of the device.
        widest: half-width of an interval, as a share of the latency, up to which a prediction is
            believed; above 0. A task
            of less than 2 % of the dense network, where that is measured, is held to a share of
            these 2 %: no plan is
            measured for the sake of a pooling.

    Raises:
        ConfigError: `widest` is not above 0.
    """

    def __init__(
        self,
        network: Network,
        source: LatencySource,
        predictor: LatencyPredictor,
        device: DeviceDescriptor,
        widest: float,
    ) -> None:
        if not widest > 0:
            raise ConfigError(
                f"the widest interval to believe is {widest!r}, it must be above 0, such as 0.1; without prediction the source is used as it is"
            )
        self._network, self._source, self._predictor, self._device, self._widest = (
            network,
            source,
            predictor,
            device,
            widest,
        )
        self._believed: dict[str, TaskCost | None] = {}  # None: too uncertain
        dense = source.predict(network.workloads(network.dense))
        self._small_s = (
            _SMALL * sum(c.latency_s for c in dense)
            if all(c.is_measured and c.error is None for c in dense)
            else 0.0
        )

    @property
    def spending(self) -> Spending:
        """Running totals of the measured source: a prediction spends nothing."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """What each subgraph costs, measured unless every task that was not is predicted narrowly
        enough.
        """
        found = self._known(self._network.workloads(plan))
        believed = [cost for cost in found if cost is not None]
        return believed if len(believed) == len(found) else self._source.measure(plan)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Cheap looks: measured, else predicted narrowly enough, else what the source guesses."""
        guesses = self._source.predict(workloads)
        return [
            cost or guess
            for cost, guess in zip(self._known(workloads, guesses), guesses, strict=True)
        ]

    def _known(
        self, workloads: Sequence[Workload], guesses: Sequence[TaskCost] | None = None
    ) -> list[TaskCost | None]:
        """Measured or narrowly predicted costs; None for a task that is neither."""
        guesses = guesses or self._source.predict(workloads)
        unseen = {
            w.key: (w, g)
            for w, g in zip(workloads, guesses, strict=True)
            if not g.is_measured and w.key not in self._believed
        }
        predictions = self._predictor.predict([w for w, _ in unseen.values()], self._device)
        for (key, (_, guess)), found in zip(unseen.items(), predictions, strict=True):
            cost = replace(
                guess,
                latency_s=found.latency_s,
                is_measured=False,
                interval_s=(found.low_s, found.high_s),
            )
            is_narrow = found.half_width * found.latency_s <= self._widest * max(
                found.latency_s, self._small_s
            )
            self._believed[key] = cost if is_narrow else None
        return [
            g if g.is_measured else self._believed[w.key]
            for w, g in zip(workloads, guesses, strict=True)
        ]
