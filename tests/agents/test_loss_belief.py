"""What cheap and full answers teach of each group's loss."""

import math

import numpy as np
import pytest

from cprune_rl.agents.planner.loss_belief import BeliefPrior, LossBelief
from cprune_rl.agents.planner.loss_posterior import LossPosterior
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.testing import toy_network

NETWORK = toy_network()
SHOWN = LossModel(np.array([0.02, 0.04, 0.01]), np.array([1.5, 2.0, 1.2]))
NO_ERRORS = BeliefPrior(power=0.0, cheap_level=0.0, cheap_unit=0.0)


def plans(n: int, seed: int = 0) -> list[Plan]:
    rng = np.random.default_rng(seed)
    return [
        Plan(tuple(int(rng.integers(g.minimum, g.channels + 1)) for g in NETWORK.groups))
        for _ in range(n)
    ]


def test_before_any_answer_the_prediction_is_believed() -> None:
    loss, deviation = LossBelief(NETWORK, SHOWN).expected(NETWORK.uniform(0.5))
    assert loss == pytest.approx(SHOWN.plan_loss(NETWORK, NETWORK.uniform(0.5)))
    assert deviation > 0.2 * loss
    assert LossBelief(NETWORK, SHOWN).expected(NETWORK.dense) == (0.0, pytest.approx(0, abs=1e-5))


def test_without_errors_and_curvature_it_is_the_posterior_of_cheap_answers() -> None:
    belief = LossBelief(NETWORK, SHOWN, NO_ERRORS)
    posterior = LossPosterior(NETWORK, SHOWN)
    for number, plan in enumerate(plans(6)):
        loss = SHOWN.plan_loss(NETWORK, plan) * (1 + 0.1 * number)
        belief.learn_cheap(plan, loss, 0.001)
        posterior.learn(plan, loss, 0.001)
    for plan in plans(5, seed=1):
        expected = posterior.loss_model.plan_loss(NETWORK, plan)
        assert belief.expected(plan)[0] == pytest.approx(expected)


def test_answer_by_answer_it_comes_to_what_all_answers_together_say() -> None:
    """The filter equals least squares over all answers with the prior."""
    prior = BeliefPrior(power=0.0)
    belief = LossBelief(NETWORK, SHOWN, prior)
    asked = plans(5)
    rows = np.array([SHOWN.unit_losses(NETWORK, plan) for plan in asked])
    losses = rows @ np.array([1.2, 0.9, 1.1])
    error = 0.001
    for plan, loss in zip(asked, losses, strict=True):
        belief.learn_full(plan, loss, error)
    covariance = np.eye(3) * prior.unit**2 + prior.level**2
    noise = math.hypot(error, 5e-4) ** 2
    gain = covariance @ rows.T @ np.linalg.inv(rows @ covariance @ rows.T + noise * np.eye(5))
    factors = 1 + gain @ (losses - rows.sum(axis=1))
    left = covariance - gain @ rows @ covariance
    for plan in plans(4, seed=2):
        row = SHOWN.unit_losses(NETWORK, plan)
        loss, deviation = belief.expected(plan)
        assert loss == pytest.approx(float(row @ factors), rel=1e-6)
        assert deviation == pytest.approx(float(np.sqrt(row @ left @ row)), rel=1e-6)


def test_cheap_answers_alone_leave_what_their_bias_hides() -> None:
    """A thousand cheap answers see the sum of two unknowns of equal size, never either of them."""
    prior = BeliefPrior(power=0.0)
    belief = LossBelief(NETWORK, SHOWN, prior)
    half = NETWORK.uniform(0.5)
    _, before = belief.expected(half)
    for plan in plans(1000):
        belief.learn_cheap(plan, SHOWN.plan_loss(NETWORK, plan), 1e-4)
    _, after = belief.expected(half)
    assert after == pytest.approx(before / math.sqrt(2), rel=0.02)
    belief.learn_full(half, SHOWN.plan_loss(NETWORK, half), 1e-4)
    assert belief.expected(half)[1] < 0.2 * after, "one full answer tells what they could not"


def test_a_full_answer_also_says_how_far_off_the_cheap_ones_are() -> None:
    half, narrower = NETWORK.uniform(0.5), NETWORK.uniform(0.4)
    told = LossBelief(NETWORK, SHOWN)
    for plan in (half, narrower):
        told.learn_cheap(plan, 1.5 * SHOWN.plan_loss(NETWORK, plan), 1e-4)
    before, _ = told.expected(narrower)
    told.learn_full(half, SHOWN.plan_loss(NETWORK, half), 1e-4)
    after, _ = told.expected(narrower)
    assert SHOWN.plan_loss(NETWORK, narrower) < after < before


def test_a_gain_counts_as_far_as_its_error_goes() -> None:
    gained, none = LossBelief(NETWORK, SHOWN), LossBelief(NETWORK, SHOWN)
    half = NETWORK.uniform(0.5)
    gained.learn_full(half, -0.5, 0.001)
    none.learn_full(half, -2 * math.hypot(0.001, 5e-4), 0.001)
    assert gained.expected(half) == none.expected(half)
    assert (gained.loss_model.scale > 0).all(), "no group is free"


def test_the_curvature_is_learnt_too() -> None:
    truth = LossModel(SHOWN.scale, SHOWN.power * 1.3)
    belief = LossBelief(NETWORK, SHOWN, BeliefPrior(level=0.05, unit=0.05, power=0.3))
    for plan in plans(40):
        belief.learn_full(plan, truth.plan_loss(NETWORK, plan), 1e-5)
    assert (belief.loss_model.power > 1.1 * SHOWN.power).all()
