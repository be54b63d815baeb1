"""Latencies of shapes that no network had before, from everything that was measured, with an
interval.

Gradient-boosted trees predict the logarithm of a task's latency over the time that the device would
need at its
measured best (`shapes.bound_s`): what is left to learn is how far a shape falls short of it. The
interval is
conformal and honest about new networks: each origin (a network, or a kind of task) is predicted
once by a model
that has not seen it, and the interval is as wide as those errors were, wider where a second model
expects larger
ones. Anchors, the tasks of a dense network, are known before anything is predicted and correct what
is predicted
beside them. Learnt is what a subgraph costs in the form chosen for it, because that is what a plan
is made of: a
predictor of each form would have to guess the choice as well. `LatencyInterpolator` interpolates within a
network and is a
lot faster; this one is asked by `predicted.PredictedLatency`, and only where it was switched on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.workload import Workload
from cprune_rl.errors import DataError
from cprune_rl.latency.task_features import FEATURES, KINDS, Sample, bound_s, feature_rows

__all__ = ["FEWEST_ORIGINS", "FEWEST_SAMPLES", "LatencyPredictor", "Prediction"]

FEWEST_SAMPLES = 40
"""Measured tasks below which no predictor is made."""
FEWEST_ORIGINS = 2
"""Origins below which there is nothing to calibrate an interval on."""

_MOST_FOLDS = 8
_SMALLEST_ERROR = 0.01  # log error below which errors are not told apart: timings differ by as much

_CHANNELS = ("channels in", "channels out")
_SAME = (*KINDS, "height", "kernel", "stride", "residuals", "activated")
_FARNESS = np.array(
    [
        1.0 if n in _CHANNELS else 3.0 if n in _SAME or n.startswith("device") else 0.0
        for n in FEATURES
    ]
)
_REACH = 1.0  # distance, in these weights, over which an anchor corrects
_DOUBT = 0.1  # far from every anchor nothing is corrected

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Prediction:
    """A latency that was not measured.

    Attributes:
        latency_s: seconds of one run.
        low_s: lower end of the interval.
        high_s: upper end.
    """

    latency_s: float
    low_s: float
    high_s: float

    @property
    def half_width(self) -> float:
        """Half of the interval as a share of the latency: what `--predict` is compared with."""
        return (self.high_s - self.low_s) / (2 * self.latency_s)


class _Regressor(Protocol):
    def fit(self, rows: Floats, values: Floats) -> object: ...

    def predict(self, rows: Floats) -> Floats: ...


def _trees(seed: int, loss: str, n_trees: int, n_leaves: int) -> _Regressor:
    from sklearn.ensemble import (
        HistGradientBoostingRegressor,
    )  # takes a second to import: only who predicts pays for it

    trees: _Regressor = HistGradientBoostingRegressor(
        loss=loss,
        max_iter=n_trees,
        learning_rate=0.06,
        max_leaf_nodes=n_leaves,
        min_samples_leaf=5,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    return trees


class LatencyPredictor:
    """Made by `fit`; equal samples and seed give equal predictions.

    Args:
        learner: fitted on everything.
        error: of the logarithm of its expected error, from features and novelty.
        stretch: expected errors that make the interval.
        coverage: share of tasks of an unseen origin that the interval is meant to hold.
    """

    def __init__(
        self, learner: _Learner, error: _Regressor, stretch: float, coverage: float
    ) -> None:
        self._learner, self._error, self._stretch = learner, error, stretch
        self.coverage = coverage

    @staticmethod
    def fit(samples: Sequence[Sample], coverage: float = 0.9, seed: int = 0) -> LatencyPredictor:
        """Learns from measured tasks.

        Args:
            samples: of one or several devices.
            coverage: share of the tasks of an unseen origin that the interval should hold, in (0,
                1).
            seed: of the trees.

        Raises:
            DataError: too few tasks or origins, or a coverage that is no share.
        """
        if not 0 < coverage < 1:
            raise DataError(
                f"coverage is {coverage!r}, it must be a share between 0 and 1, such as 0.9"
            )
        samples = sorted(
            (s for s in samples if 0 < s.cost.latency_s < math.inf),
            key=lambda s: (s.origin, s.workload.key, s.device.vector()),
        )
        origins = sorted({s.origin for s in samples if not s.is_anchor})
        if len(samples) < FEWEST_SAMPLES or len(origins) < FEWEST_ORIGINS:
            raise DataError(
                f"{len(samples)} measured tasks of {len(origins)} networks or kinds of task are too few to predict from: it takes {FEWEST_SAMPLES} of {FEWEST_ORIGINS}. "
                "Measure more on this device (`cprune-rl record`), or leave prediction off (`--predict 0`)."
            )
        rows = feature_rows((s.workload, s.device) for s in samples)
        values = np.array(
            [math.log(s.cost.latency_s / bound_s(s.workload, s.device)) for s in samples]
        )
        is_anchor = np.array([s.is_anchor for s in samples])
        folds = np.array(
            [origins.index(s.origin) % _MOST_FOLDS if s.origin in origins else -1 for s in samples]
        )
        seen, misses = _misses(rows, values, folds, is_anchor, seed)
        error, stretch = _calibrated(seen, misses, folds[~is_anchor], coverage, seed)
        return LatencyPredictor(_Learner(rows, values, is_anchor, seed), error, stretch, coverage)

    def predict(self, workloads: Sequence[Workload], device: DeviceDescriptor) -> list[Prediction]:
        """Latencies of tasks on a device, with intervals."""
        if not workloads:
            return []
        rows = feature_rows((w, device) for w in workloads)
        halves = self._stretch * np.exp(self._error.predict(self._learner.with_novelty(rows)))
        found = []
        for workload, log_ratio, half in zip(
            workloads, self._learner.predict(rows), halves, strict=True
        ):
            latency_s = bound_s(workload, device) * math.exp(log_ratio)
            found.append(
                Prediction(latency_s, latency_s * math.exp(-half), latency_s * math.exp(half))
            )
        return found


class _Learner:
    """The trees that predict, what the anchors correct, and how far a task is from all that was
    seen.

    The trees do not see the anchors: how far they are off there is how far they are off beside
    them.
    """

    def __init__(self, rows: Floats, values: Floats, is_anchor: Bools, seed: int) -> None:
        self._trees = _trees(
            seed, "absolute_error", 200, 8
        )  # a task on which the tuner had bad luck is not worth learning
        self._trees.fit(rows[~is_anchor], values[~is_anchor])
        self._seen = cKDTree(rows * _FARNESS)
        self._anchors = rows[is_anchor] * _FARNESS
        self._off = (
            values[is_anchor] - self._trees.predict(rows[is_anchor])
            if is_anchor.any()
            else np.empty(0)
        )

    def predict(self, rows: Floats) -> Floats:
        """Logarithms of latency over bound."""
        if not len(self._off):
            return self._trees.predict(rows)
        weights = np.exp(-cdist(rows * _FARNESS, self._anchors, "cityblock") / _REACH)
        return np.asarray(
            self._trees.predict(rows) + weights @ self._off / (weights.sum(axis=1) + _DOUBT)
        )

    def with_novelty(self, rows: Floats) -> Floats:
        """Features with one more: the distance to the nearest task seen."""
        distance, _ = self._seen.query(rows * _FARNESS, p=1)
        return np.column_stack([rows, distance])


def _misses(
    rows: Floats, values: Floats, folds: Ints, is_anchor: Bools, seed: int
) -> tuple[Floats, Floats]:
    """For each judged task its features with novelty, and the error of a learner that has not seen
    its fold, anchors apart.
    """
    seen, misses = np.empty((len(rows), rows.shape[1] + 1)), np.empty(len(rows))
    for fold in np.unique(folds[~is_anchor]):
        out = (folds == fold) & ~is_anchor
        learner = _Learner(rows[~out], values[~out], is_anchor[~out], seed)
        seen[out] = learner.with_novelty(rows[out])
        misses[out] = np.abs(values[out] - learner.predict(rows[out]))
    return seen[~is_anchor], misses[~is_anchor]


def _calibrated(
    seen: Floats, misses: Floats, folds: Ints, coverage: float, seed: int
) -> tuple[_Regressor, float]:
    """A model of the errors, and how many expected errors the interval takes for its coverage, on
    folds it has not seen either.
    """
    logs, scores = np.log(np.maximum(misses, _SMALLEST_ERROR)), np.empty_like(misses)
    for fold in np.unique(folds):
        out = folds == fold
        scores[out] = misses[out] / np.exp(_error(seen[~out], logs[~out], seed).predict(seen[out]))
    return _error(seen, logs, seed), _conformal(scores, coverage)


def _error(seen: Floats, logs: Floats, seed: int) -> _Regressor:
    trees = _trees(seed, "squared_error", 40, 5)
    trees.fit(seen, logs)
    return trees


def _conformal(scores: Floats, coverage: float) -> float:
    """The score that a share of `coverage` stays below, corrected for their number (split conformal
    prediction).
    """
    return float(np.sort(scores)[min(len(scores), math.ceil(coverage * (len(scores) + 1))) - 1])
