"""What cheap and full answers together say of each group's and layer's loss.

A plan's loss is a sum over units (groups, and layers that schemes may prune). What is unknown of
each unit: the factor of its true loss against the predicted one; for a group, by how much its
curvature differs; and the error of cheap answers, which goes with what was pruned. A full answer
sees the first two, a cheap one all three. So cheap answers alone never make a search surer of the
truth than their error allows, however many there are. Everything is Gaussian and linear: an answer
is one step of a Kalman filter.

How wide the prior should be differs between networks, and so does the curvature that their groups
have in common: the last channels of some are dear, others lose evenly. So there is a filter for
each of a few widths and curvatures. Each counts by how well it foresaw the answers so far.

`benchmarks/loss_model.py` fitted the deviations, on plans that were fine-tuned in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel, kept_ratios
from cprune_rl.core.network import Network, Plan

__all__ = ["BeliefPrior", "LossBelief"]

_LEAST_FACTOR = 0.05  # no group is free
_NOISE = 5e-4  # in accuracy, beside an answer's own error: what no sum of losses explains
_NEGLIGIBLE = 1e-3  # probability of a curvature that is left out
_GAIN_ERRORS = 2.0  # standard errors below 0 at which a loss is no chance any more


@dataclass(frozen=True, kw_only=True)
class BeliefPrior:
    """Standard deviations before any answer, as shares of the predicted losses.

    Attributes:
        level: of what the factors have in common.
        unit: of each unit's own part.
        power: of the logarithm of a group's curvature.
        cheap_level: of the error that all cheap answers have in common.
        cheap_unit: of each unit's own part of it.
        widths: what may multiply the first three, each as likely as the others.
        curvatures: what may multiply the powers of all groups, each as likely as the others. The
            loss at half the channels stays as predicted.
    """

    level: float = 0.2
    unit: float = 0.4
    power: float = 0.2
    cheap_level: float = 0.2
    cheap_unit: float = 0.4
    widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    curvatures: tuple[float, ...] = (1.0, 0.6, 0.36)

    @staticmethod
    def trusting() -> BeliefPrior:
        """Take cheap answers for the truth, and curvatures as they are predicted."""
        return BeliefPrior(
            power=0.0, cheap_level=0.0, cheap_unit=0.0, widths=(1.0,), curvatures=(1.0,)
        )


class LossBelief:
    """What is known of the losses of a network's plans.

    Args:
        network: whose plans.
        loss_model: what is predicted for each unit.
        prior: how far off that may be.
    """

    def __init__(
        self, network: Network, loss_model: LossModel, prior: BeliefPrior | None = None
    ) -> None:
        prior = prior or BeliefPrior()
        self._network = network
        self._variants = [
            _Variant(_curved(loss_model, curvature), prior) for curvature in prior.curvatures
        ]
        self._known: dict[Plan, tuple[float, float]] = {}
        self._weights = self._likely()

    @property
    def factors(self) -> NDArray[np.float64]:
        """Expected factors of the predicted losses, `(n_units,)`, at the likeliest curvature."""
        return self._likeliest.factors

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw factors as they may truly be, `(n_units,)`."""
        return self._likeliest.draw(rng)

    @property
    def loss_model(self) -> LossModel:
        """The loss model as expected now, at the likeliest curvature."""
        return self._likeliest.expected_model

    def expected(self, plan: Plan) -> tuple[float, float]:
        """Give the loss of a plan after the full fine-tune, and its standard deviation."""
        known = self._known.get(plan)
        if known is None:
            kept = kept_ratios(self._network, plan)
            moments = [
                (weight, *variant.moments(variant.true_row(self._network, plan, kept)))
                for weight, variant in zip(self._weights, self._variants, strict=True)
                if weight > 0
            ]
            mean = sum(weight * loss for weight, loss, _ in moments)
            variance = sum(weight * (v + (loss - mean) ** 2) for weight, loss, v in moments)
            known = mean, math.sqrt(max(variance, 1e-12))
            self._known[plan] = known
        return known

    def cheap_movement(self, plan: Plan, standard_error: float) -> float:
        """Foresee how far a cheap answer about a plan moves the expected loss of the plan.

        Args:
            plan: that would be evaluated.
            standard_error: that the answer would state.

        Returns:
            The standard deviation of the movement, in accuracy, at the likeliest curvature.
        """
        row = self._likeliest.true_row(self._network, plan, kept_ratios(self._network, plan))
        return self._likeliest.cheap_movement(row, math.hypot(standard_error, _NOISE))

    def learn_cheap(self, plan: Plan, loss: float, standard_error: float) -> None:
        """Take the oracle's answer in; the arguments are those of `learn_full`."""
        self._learn(plan, loss, standard_error, is_cheap=True)

    def learn_full(self, plan: Plan, loss: float, standard_error: float) -> None:
        """Take the answer of a full fine-tune in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network. It is negative where a fine-tune gained.
                Beyond its error that says nothing of units, which lose or do not, so it counts as
                far as the error goes.
            standard_error: of it.
        """
        self._learn(plan, loss, standard_error, is_cheap=False)

    def _learn(self, plan: Plan, loss: float, standard_error: float, *, is_cheap: bool) -> None:
        error = math.hypot(standard_error, _NOISE)
        kept = kept_ratios(self._network, plan)
        for variant in self._variants:
            row = variant.true_row(self._network, plan, kept)
            variant.learn(row, max(loss, -_GAIN_ERRORS * error), error, is_cheap=is_cheap)
        self._weights = self._likely()
        self._known.clear()

    def _likely(self) -> NDArray[np.float64]:
        """Give each variant's probability; 0 where it is negligible."""
        weights = _normalised(np.array([variant.log_evidence for variant in self._variants]))
        weights[weights < _NEGLIGIBLE] = 0.0
        return np.asarray(weights / weights.sum())

    @property
    def _likeliest(self) -> _Variant:
        return self._variants[int(self._weights.argmax())]


class _Variant:
    """What is believed if the groups have a certain curvature in common.

    Args:
        loss_model: as it is predicted with this curvature.
        prior: of the deviations from it.
    """

    def __init__(self, loss_model: LossModel, prior: BeliefPrior) -> None:
        self._loss_model = loss_model
        self._n_units = loss_model.n_units
        self._n_true = loss_model.n_units + len(loss_model.scale)
        self._filters = [_Filter.from_prior(loss_model, prior, width) for width in prior.widths]
        self._summarise()

    @property
    def factors(self) -> NDArray[np.float64]:
        return np.asarray(self._mean[: self._n_units])

    @property
    def expected_model(self) -> LossModel:
        scaled = self._loss_model.scaled(self.factors)
        deviations = self._mean[self._n_units : self._n_true]
        powers = scaled.power * np.exp(np.clip(deviations, -1, 1))
        return LossModel(scaled.scale, powers, scaled.layer_scale)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        n = self._n_units
        drawn = rng.multivariate_normal(
            self.factors, self._covariance[:n, :n], method="eigh", check_valid="ignore"
        )
        return np.maximum(drawn, _LEAST_FACTOR)

    def true_row(
        self, network: Network, plan: Plan, kept: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Derive a plan's loss by the factors and by the logarithms of the curvatures.

        Args:
            network: whose plan.
            plan: that loses.
            kept: its kept ratios, `(n_groups,)`.
        """
        model = self._loss_model
        groups = model.group_losses(kept)
        by_power = groups * model.power * np.log(np.minimum(np.maximum(1.0 - kept, 1e-9), 1.0))
        return np.concatenate([groups, model.layer_losses(network, plan), by_power])

    def moments(self, row: NDArray[np.float64]) -> tuple[float, float]:
        """Give mean and variance of the loss that a row derives."""
        n = self._n_true
        return float(row @ self._mean[:n]), float(row @ self._covariance[:n, :n] @ row)

    def cheap_movement(self, row: NDArray[np.float64], error: float) -> float:
        """Give the standard deviation of the movement by a cheap answer."""
        whole = self._whole_row(row, is_cheap=True)
        spread = self._covariance @ whole
        deviation = math.sqrt(float(whole @ spread) + error**2)
        return abs(float(row @ spread[: self._n_true])) / deviation

    def learn(self, row: NDArray[np.float64], loss: float, error: float, *, is_cheap: bool) -> None:
        """Take an answer in."""
        for each in self._filters:
            each.learn(self._whole_row(row, is_cheap=is_cheap), loss, error)
        self._summarise()

    def _whole_row(self, row: NDArray[np.float64], *, is_cheap: bool) -> NDArray[np.float64]:
        """Add by how much an answer is off with the errors of cheap ones."""
        return np.concatenate([row, row[: self._n_units] if is_cheap else np.zeros(self._n_units)])

    def _summarise(self) -> None:
        """Take mean and covariance of the mixture that the filters make."""
        evidence = np.array([each.log_evidence for each in self._filters])
        weights = _normalised(evidence)
        means = np.array([each.mean for each in self._filters])
        self._mean = weights @ means
        apart = means - self._mean
        self._covariance = np.einsum("f,fi,fj->ij", weights, apart, apart)
        for weight, each in zip(weights, self._filters, strict=True):
            self._covariance += weight * each.covariance
        self.log_evidence = float(np.logaddexp.reduce(evidence))


@dataclass
class _Filter:
    """A Kalman filter: factors of units, curvatures of groups, errors of units' cheap answers.

    Attributes:
        mean: `(n,)`.
        covariance: `(n, n)`.
        n_units: how many of the unknown are factors.
        log_evidence: logarithm of the density that the answers so far had, each before it came.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n_units: int
    log_evidence: float = 0.0

    @staticmethod
    def from_prior(loss_model: LossModel, prior: BeliefPrior, width: float) -> _Filter:
        n_units = loss_model.n_units
        n_groups = len(loss_model.scale)
        n_true = n_units + n_groups
        factors, powers = slice(0, n_units), slice(n_units, n_true)
        errors = slice(n_true, None)
        covariance = np.zeros((n_true + n_units, n_true + n_units))
        covariance[factors, factors] = np.eye(n_units) * (width * prior.unit) ** 2
        covariance[powers, powers] = np.eye(n_groups) * (width * prior.power) ** 2
        covariance[errors, errors] = np.eye(n_units) * prior.cheap_unit**2
        for start, level in ((0, width * prior.level), (n_true, prior.cheap_level)):
            # the levels of channels and of schemes are fitted apart
            for units in (slice(start, start + n_groups), slice(start + n_groups, start + n_units)):
                covariance[units, units] += level**2
        mean = np.concatenate([np.ones(n_units), np.zeros(n_groups + n_units)])
        return _Filter(mean, covariance, n_units)

    def learn(self, row: NDArray[np.float64], loss: float, error: float) -> None:
        """Take one answer in: a loss that is `row` times the unknown, with an error."""
        spread = self.covariance @ row
        variance = float(row @ spread) + error**2
        surprise = loss - float(row @ self.mean)
        self.log_evidence -= (surprise**2 / variance + math.log(variance)) / 2
        gain = spread / variance
        self.mean = self.mean + gain * surprise
        self.mean[: self.n_units] = np.maximum(self.mean[: self.n_units], _LEAST_FACTOR)
        self.covariance = self.covariance - np.outer(gain, spread)


def _curved(loss_model: LossModel, curvature: float) -> LossModel:
    """Multiply the powers of all groups; what half the channels lose stays."""
    power = loss_model.power * curvature
    scale = loss_model.scale * 0.5 ** (loss_model.power - power)
    return LossModel(scale, power, loss_model.layer_scale)


def _normalised(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())
