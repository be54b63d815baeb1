"""What cheap and full answers teach of each group's loss."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.core.loss_belief import BeliefPrior, LossBelief
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.testing import toy_network

NETWORK = toy_network()
SHOWN = LossModel(np.array([0.02, 0.04, 0.01]), np.array([1.5, 2.0, 1.2]))


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


def trusting() -> LossBelief:
    return LossBelief(NETWORK, SHOWN, BeliefPrior.trusting())


def drawn_deviation(belief: LossBelief, plan: Plan) -> float:
    """Of a plan's loss, by factors that are drawn."""
    rng = np.random.default_rng(0)
    losses = [SHOWN.scaled(belief.draw(rng)).plan_loss(NETWORK, plan) for _ in range(400)]
    return float(np.std(losses))


def test_who_trusts_cheap_answers_takes_them_as_full_ones() -> None:
    by_cheap, by_full = trusting(), trusting()
    for number, plan in enumerate(plans(6)):
        loss = SHOWN.plan_loss(NETWORK, plan) * (1 + 0.1 * number)
        by_cheap.learn_cheap(plan, loss, 0.001)
        by_full.learn_full(plan, loss, 0.001)
    for plan in plans(5, seed=1):
        assert by_cheap.expected(plan) == pytest.approx(by_full.expected(plan))


def test_drawn_factors_vary_as_the_belief_says() -> None:
    belief = trusting()
    plan = NETWORK.uniform(0.4)
    for _ in range(2):
        assert drawn_deviation(belief, plan) == pytest.approx(belief.expected(plan)[1], rel=0.15)
        belief.learn_full(NETWORK.uniform(0.6), SHOWN.plan_loss(NETWORK, NETWORK.uniform(0.6)), 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3), st.integers(0, 99))
def test_a_dozen_evaluations_tell_the_true_loss_of_a_plan_not_seen(
    factors: list[float], seed: int
) -> None:
    truth = LossModel(SHOWN.scale * np.array(factors), SHOWN.power)
    belief = trusting()
    new = NETWORK.uniform(0.4)
    _, before = belief.expected(new)
    for plan in plans(12, seed):
        belief.learn_cheap(plan, truth.plan_loss(NETWORK, plan), 0.0)
    loss, deviation = belief.expected(new)
    assert loss == pytest.approx(truth.plan_loss(NETWORK, new), abs=0.003)
    assert deviation < before / 2


def test_an_uncertain_answer_teaches_less() -> None:
    sure, unsure = trusting(), trusting()
    half = NETWORK.uniform(0.5)
    sure.learn_cheap(half, 0.05, 0.0)
    unsure.learn_cheap(half, 0.05, 0.05)
    predicted, _ = trusting().expected(half)
    assert predicted < unsure.expected(half)[0] < sure.expected(half)[0]


def test_answer_by_answer_it_comes_to_what_all_answers_together_say() -> None:
    """The filter equals least squares over all answers with the prior."""
    prior = BeliefPrior(power=0.0, widths=(1.0,), curvatures=(1.0,))
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
    prior = BeliefPrior(power=0.0, widths=(1.0,), curvatures=(1.0,))
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


@pytest.mark.parametrize("error", [0.0, 0.0025])
def test_a_gain_by_the_fine_tune_is_no_statement_about_the_groups(error: float) -> None:
    mild, narrow = NETWORK.uniform(0.8), NETWORK.uniform(0.4)
    truth = SHOWN.plan_loss(NETWORK, narrow)
    alone, after_gain = trusting(), trusting()
    after_gain.learn_cheap(mild, -0.03, error)
    for belief in (alone, after_gain):
        belief.learn_cheap(narrow, truth, error)
    assert after_gain.expected(narrow)[0] == pytest.approx(alone.expected(narrow)[0], rel=0.1)


def test_the_curvature_is_learnt_too() -> None:
    truth = LossModel(SHOWN.scale, SHOWN.power * 1.3)
    belief = LossBelief(
        NETWORK,
        SHOWN,
        BeliefPrior(level=0.05, unit=0.05, power=0.3, widths=(1.0,), curvatures=(1.0,)),
    )
    for plan in plans(40):
        belief.learn_full(plan, truth.plan_loss(NETWORK, plan), 1e-5)
    assert (belief.loss_model.power > 1.1 * SHOWN.power).all()


def test_answers_far_off_widen_what_is_believed() -> None:
    """Those that come as they were foreseen do not."""
    one_width = BeliefPrior(widths=(1.0,), curvatures=(1.0,))
    asked, new = plans(4), NETWORK.uniform(0.4)
    ratios = {}
    for factor in (1.0, 3.0):
        narrow, free = LossBelief(NETWORK, SHOWN, one_width), LossBelief(NETWORK, SHOWN)
        truth = LossModel(SHOWN.scale * np.array([factor, 1 / factor, factor]), SHOWN.power)
        for plan in asked:
            for belief in (narrow, free):
                belief.learn_full(plan, truth.plan_loss(NETWORK, plan), 0.001)
        ratios[factor] = free.expected(new)[1] / narrow.expected(new)[1]
    assert ratios[3.0] > 1.2 > ratios[1.0]


def test_what_a_cheap_answer_will_move_is_foreseen() -> None:
    """What is not moved is left: the variances add up."""
    prior = BeliefPrior(widths=(1.0,), curvatures=(1.0,))
    belief, asked = LossBelief(NETWORK, SHOWN, prior), LossBelief(NETWORK, SHOWN, prior)
    half = NETWORK.uniform(0.5)
    for error in (0.0, 0.002, 0.1):
        _, before = belief.expected(half)
        moved = belief.cheap_movement(half, error)
        asked.learn_cheap(half, SHOWN.plan_loss(NETWORK, half), error)
        _, left = asked.expected(half)
        assert moved**2 + left**2 == pytest.approx(before**2)
        belief.learn_cheap(half, SHOWN.plan_loss(NETWORK, half), error)
