"""Latencies of shapes that no network had before, with an interval, from all measured tasks.

Gradient-boosted trees predict the log ratio of a task's latency to its roofline
(`task_features.roofline_s`), so what is left to learn is how far a shape falls short of it.

The interval is conformal, and honest about new networks. Each origin (a network, or a kind of task)
is predicted once by a model that was not fitted on it. The interval is as wide as those errors
were, and wider where a second model expects larger ones.

Anchors, the tasks of a dense network, are known before anything is predicted. They correct the
predictions beside them.

The samples are latencies in the layout variant that was chosen for a subgraph, because a plan is
made of those. A predictor of each variant would have to guess the choice as well.

`LatencyInterpolator` works within a network and is much faster. `predicted.PredictedLatency` asks
this one, and only where a run switched it on.
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
from cprune_rl.latency.task_features import (
    FEATURES,
    OPERATORS,
    LatencySample,
    feature_matrix,
    roofline_s,
)

__all__ = ["MIN_ORIGINS", "MIN_SAMPLES", "LatencyPredictor", "Prediction"]

MIN_SAMPLES = 40
"""Measured tasks below which no predictor is made."""
MIN_ORIGINS = 2
"""Origins below which there is nothing to calibrate an interval on."""

_MAX_FOLDS = 8
# Log error below which errors are not told apart: timings differ by as much.
_MIN_ERROR = 0.01

_CHANNELS = ("channels in", "channels out")
_SAME = (*OPERATORS, "height", "kernel", "stride", "residuals", "activated")
_REACH = 1.0  # weighted distance over which an anchor corrects
_DOUBT = 0.1  # weight of no correction: far from every anchor nothing is corrected

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _distance_weight(feature: str) -> float:
    if feature in _CHANNELS:
        return 1.0
    return 3.0 if feature in _SAME or feature.startswith("device") else 0.0


_DISTANCE_WEIGHTS = np.array([_distance_weight(feature) for feature in FEATURES])


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
        """Half of the interval as a share of the latency; `--predict` is its limit."""
        return (self.high_s - self.low_s) / (2 * self.latency_s)


class _Regressor(Protocol):
    def fit(self, rows: Floats, values: Floats) -> object: ...

    def predict(self, rows: Floats) -> Floats: ...


class LatencyPredictor:
    """Predicts latencies with intervals; `fit` makes one.

    Equal samples and seed give equal predictions.

    Args:
        learner: fitted on everything.
        error: of the logarithm of its expected error, from features and novelty.
        stretch: expected errors to half an interval.
        coverage: share of tasks of an unseen origin that the interval is meant to hold.
    """

    def __init__(
        self, *, learner: _Learner, error: _Regressor, stretch: float, coverage: float
    ) -> None:
        self._learner = learner
        self._error = error
        self._stretch = stretch
        self.coverage = coverage

    @staticmethod
    def fit(
        samples: Sequence[LatencySample], coverage: float = 0.9, seed: int = 0
    ) -> LatencyPredictor:
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
        if len(samples) < MIN_SAMPLES or len(origins) < MIN_ORIGINS:
            raise DataError(
                f"{len(samples)} measured tasks of {len(origins)} networks or kinds of task are "
                f"too few to predict from: it takes {MIN_SAMPLES} of {MIN_ORIGINS}. Measure more "
                "on this device (`cprune-rl record`), or leave prediction off (`--predict 0`)."
            )
        data = _TrainingData.from_samples(samples, origins)
        features, errors = _out_of_fold_errors(data, seed)
        folds = data.folds[~data.is_anchor]
        log_errors = np.log(np.maximum(errors, _MIN_ERROR))
        scores = _out_of_fold_scores(features, log_errors, errors, folds=folds, seed=seed)
        return LatencyPredictor(
            learner=_Learner(data, seed),
            error=_fit_error_model(features, log_errors, seed),
            stretch=_conformal_quantile(scores, coverage),
            coverage=coverage,
        )

    def predict(self, workloads: Sequence[Workload], device: DeviceDescriptor) -> list[Prediction]:
        """Predicts latencies of tasks on a device, with intervals."""
        if not workloads:
            return []
        rows = feature_matrix((w, device) for w in workloads)
        log_ratios = self._learner.predict(rows)
        half_widths = self._stretch * np.exp(self._error.predict(self._learner.with_novelty(rows)))
        predictions = []
        for workload, log_ratio, half in zip(workloads, log_ratios, half_widths, strict=True):
            latency_s = roofline_s(workload, device) * math.exp(log_ratio)
            low_s, high_s = latency_s * math.exp(-half), latency_s * math.exp(half)
            predictions.append(Prediction(latency_s, low_s, high_s))
        return predictions


@dataclass(frozen=True, kw_only=True)
class _TrainingData:
    """Samples as arrays.

    Attributes:
        rows: features, `(n, len(FEATURES))`.
        values: log ratios of latency to roofline, `(n,)`.
        is_anchor: `(n,)`.
        folds: origins that are left out together, `(n,)`; -1 for an origin of anchors alone.
    """

    rows: Floats
    values: Floats
    is_anchor: Bools
    folds: Ints

    @staticmethod
    def from_samples(samples: Sequence[LatencySample], origins: Sequence[str]) -> _TrainingData:
        fold_of = {origin: at % _MAX_FOLDS for at, origin in enumerate(origins)}
        ratios = [s.cost.latency_s / roofline_s(s.workload, s.device) for s in samples]
        return _TrainingData(
            rows=feature_matrix((s.workload, s.device) for s in samples),
            values=np.array([math.log(ratio) for ratio in ratios]),
            is_anchor=np.array([s.is_anchor for s in samples]),
            folds=np.array([fold_of.get(s.origin, -1) for s in samples]),
        )

    def without(self, out: Bools) -> _TrainingData:
        """The same without some of the samples."""
        return _TrainingData(
            rows=self.rows[~out],
            values=self.values[~out],
            is_anchor=self.is_anchor[~out],
            folds=self.folds[~out],
        )


class _Learner:
    """The trees that predict, what anchors correct, and how far a task is from all samples.

    The trees are not fitted on the anchors: their error there is their error beside them.
    """

    def __init__(self, data: _TrainingData, seed: int) -> None:
        learnt = data.without(data.is_anchor)
        anchors = data.without(~data.is_anchor)
        # Absolute error: a task on which the tuner had bad luck is not worth learning.
        self._trees = _make_trees(seed, "absolute_error", n_trees=200, n_leaves=8)
        self._trees.fit(learnt.rows, learnt.values)
        self._samples = cKDTree(data.rows * _DISTANCE_WEIGHTS)
        self._anchors = anchors.rows * _DISTANCE_WEIGHTS
        self._anchor_errors = np.empty(0)
        if len(anchors.rows):
            self._anchor_errors = anchors.values - self._trees.predict(anchors.rows)

    def predict(self, rows: Floats) -> Floats:
        """Log ratios of latency to roofline."""
        log_ratios = self._trees.predict(rows)
        if not len(self._anchor_errors):
            return log_ratios
        weights = np.exp(-cdist(rows * _DISTANCE_WEIGHTS, self._anchors, "cityblock") / _REACH)
        corrections = weights @ self._anchor_errors / (weights.sum(axis=1) + _DOUBT)
        return np.asarray(log_ratios + corrections)

    def with_novelty(self, rows: Floats) -> Floats:
        """Features with one more: the distance to the nearest sample."""
        distance, _ = self._samples.query(rows * _DISTANCE_WEIGHTS, p=1)
        return np.column_stack([rows, distance])


def _make_trees(seed: int, loss: str, n_trees: int, n_leaves: int) -> _Regressor:
    # Importing it takes a second, which only a run that predicts should pay.
    from sklearn.ensemble import HistGradientBoostingRegressor

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


def _out_of_fold_errors(data: _TrainingData, seed: int) -> tuple[Floats, Floats]:
    """Absolute errors of learners that were not fitted on a task's fold, anchors apart.

    Returns:
        Features with novelty, and errors, of each sample that is no anchor.
    """
    features = np.empty((len(data.rows), data.rows.shape[1] + 1))
    errors = np.empty(len(data.rows))
    for fold in np.unique(data.folds[~data.is_anchor]):
        out = (data.folds == fold) & ~data.is_anchor
        learner = _Learner(data.without(out), seed)
        features[out] = learner.with_novelty(data.rows[out])
        errors[out] = np.abs(data.values[out] - learner.predict(data.rows[out]))
    return features[~data.is_anchor], errors[~data.is_anchor]


def _out_of_fold_scores(
    features: Floats, log_errors: Floats, errors: Floats, *, folds: Ints, seed: int
) -> Floats:
    """Errors over expected errors, by models of the error that were not fitted on a task's fold."""
    scores = np.empty_like(errors)
    for fold in np.unique(folds):
        out = folds == fold
        model = _fit_error_model(features[~out], log_errors[~out], seed)
        scores[out] = errors[out] / np.exp(model.predict(features[out]))
    return scores


def _fit_error_model(features: Floats, log_errors: Floats, seed: int) -> _Regressor:
    trees = _make_trees(seed, "squared_error", n_trees=40, n_leaves=5)
    trees.fit(features, log_errors)
    return trees


def _conformal_quantile(scores: Floats, coverage: float) -> float:
    """The quantile of split conformal prediction: corrected for the number of scores."""
    rank = min(len(scores), math.ceil(coverage * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1])
