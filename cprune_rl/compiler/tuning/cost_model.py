"""A learned ranking of programs: which of many candidates are worth a trial.

Trained while tuning on the trials of a family of tasks, over TVM's own per-store features of the
scheduled
function. It never replaces a measurement. Called by `search`.
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


def features(
    module: tvm.IRModule, target: tvm.target.Target, candidates: Sequence[Candidate]
) -> NDArray[np.float64]:
    """`(n_candidates, 492)`: sum, maximum and mean over the stores of each scheduled function.

    Args:
        module: the task.
        target: what it will run on.
        candidates: programs applied to it.
    """
    context = ms.TuneContext(mod=module, target=target, num_threads=1)
    extractor = ms.feature_extractor.PerStoreFeature()
    measured = [ms.MeasureCandidate(tvm.s_tir.Schedule(c.module), []) for c in candidates]
    stores: list[Any] = [np.asarray(f.numpy()) for f in extractor.extract_from(context, measured)]
    return np.stack([np.concatenate([s.sum(0), s.max(0), s.mean(0)]) for s in stores]).astype(
        np.float64
    )


class ScheduleCostModel:
    """Log latency of programs of one family, relative to the best of their own task.

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
        """Has seen enough to rank."""
        return len(self._rows) >= _ENOUGH

    def learn(self, rows: NDArray[np.float64], latencies_s: Sequence[float], best_s: float) -> None:
        """Adds trials.

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
        """Positions of the candidates, most promising first.

        Raises:
            ValueError: the model has not seen enough (`is_ready`).
        """
        if not self.is_ready:
            raise ValueError(f"a ranking needs {_ENOUGH} trials, {len(self._rows)} were seen")
        if self._model is None:
            keep = slice(-600, None)  # what is old was learnt of other shapes
            self._model = ExtraTreesRegressor(
                60, max_features=0.3, min_samples_leaf=2, n_jobs=1, random_state=self._seed
            )
            self._model.fit(np.stack(self._rows[keep]), np.array(self._logs[keep]))
        return np.argsort(self._model.predict(rows), kind="stable")
