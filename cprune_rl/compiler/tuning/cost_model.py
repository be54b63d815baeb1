"""Learns to rank schedules: which of many candidates are worth a trial.

It is trained while tuning, on the trials of a family of tasks, over TVM's own per-store features of
the scheduled function. It never replaces a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from tvm.s_tir import meta_schedule as ms

from cprune_rl.compiler.tuning.schedule import Candidate

__all__ = ["ScheduleCostModel", "features"]

_ENOUGH = 8  # trials below which a ranking would be noise
_MEMORY = 600  # trials: what is older was learnt of other shapes


def features(
    module: tvm.IRModule, target: tvm.target.Target, candidates: Sequence[Candidate]
) -> NDArray[np.float64]:
    """Return each scheduled function's features, `(n_candidates, 492)`.

    They are sum, maximum and mean over the function's stores.

    Args:
        module: the task.
        target: what it will run on.
        candidates: schedules applied to it.
    """
    context = ms.TuneContext(mod=module, target=target, num_threads=1)
    measured = [ms.MeasureCandidate(tvm.s_tir.Schedule(c.module), []) for c in candidates]
    rows = []
    for tensor in ms.feature_extractor.PerStoreFeature().extract_from(context, measured):
        stores = np.asarray(tensor.numpy())
        rows.append(np.concatenate([stores.sum(0), stores.max(0), stores.mean(0)]))
    return np.stack(rows).astype(np.float64)


class ScheduleCostModel:
    """Predicts the log latency of a family's schedules, relative to the best of their own task.

    Args:
        seed: of the trees.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rows: list[NDArray[np.float64]] = []
        self._logs: list[float] = []
        self._model: Any = None

    @property
    def is_ready(self) -> bool:
        """Whether it has seen enough to rank."""
        return len(self._rows) >= _ENOUGH

    def learn(self, rows: NDArray[np.float64], latencies_s: Sequence[float], best_s: float) -> None:
        """Add trials of one task.

        Args:
            rows: features, `(n, 492)`.
            latencies_s: of each; infinite where it failed.
            best_s: of the task.
        """
        for row, latency in zip(rows, latencies_s, strict=True):
            if np.isfinite(latency):
                self._rows.append(row)
                self._logs.append(float(np.log(latency / best_s)))
        self._model = None

    def rank(self, rows: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the positions of the candidates, most promising first.

        Raises:
            ValueError: the model has not seen enough (`is_ready`).
        """
        if not self.is_ready:
            raise ValueError(f"a ranking needs {_ENOUGH} trials, {len(self._rows)} were seen")
        if self._model is None:
            self._model = ExtraTreesRegressor(
                60, max_features=0.3, min_samples_leaf=2, n_jobs=1, random_state=self._seed
            )
            self._model.fit(np.stack(self._rows[-_MEMORY:]), np.array(self._logs[-_MEMORY:]))
        return np.argsort(self._model.predict(rows), kind="stable")
