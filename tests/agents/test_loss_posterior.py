"""What evaluations teach of each group's loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.agents.planner.loss_posterior import LossPosterior
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.testing import toy_network

NETWORK = toy_network()
SHOWN = LossModel(np.array([0.02, 0.04, 0.01]), np.array([1.5, 2.0, 1.2]))


def _loss(posterior: LossPosterior, plan: Plan) -> float:
    """Expected of a plan."""
    return float(posterior.loss_model.unit_losses(NETWORK, plan).sum())


def _deviation(posterior: LossPosterior) -> float:
    """Of the loss of a narrow plan, by models drawn from the posterior."""
    rng = np.random.default_rng(0)
    kept = np.array(NETWORK.uniform(0.4).widths) / np.array(NETWORK.dense.widths)
    return float(
        np.std(
            [
                posterior.loss_model_with(posterior.draw(rng)).group_losses(kept).sum()
                for _ in range(200)
            ]
        )
    )


def test_before_any_evaluation_the_predicted_curves_are_believed() -> None:
    posterior = LossPosterior(NETWORK, SHOWN)
    half = NETWORK.uniform(0.5)
    assert _loss(posterior, half) == pytest.approx(
        SHOWN.group_losses(np.full(3, 0.5)).sum(), rel=0.05
    )
    assert _loss(posterior, NETWORK.dense) == 0.0
    rng = np.random.default_rng(0)
    assert np.std([posterior.draw(rng) for _ in range(50)], axis=0).min() > 0.2, (
        "nothing is known for sure yet"
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3), st.integers(0, 99))
def test_a_dozen_evaluations_tell_the_true_loss_of_a_plan_not_seen(
    factors: list[float], seed: int
) -> None:
    truth = LossModel(SHOWN.scale * np.array(factors), SHOWN.power)
    posterior = LossPosterior(NETWORK, SHOWN)
    rng = np.random.default_rng(seed)
    before = _deviation(posterior)
    for _ in range(12):
        plan = Plan(tuple(int(rng.integers(g.minimum, g.channels + 1)) for g in NETWORK.groups))
        posterior.learn(
            plan,
            float(truth.group_losses(np.array(plan.widths) / np.array(NETWORK.dense.widths)).sum()),
        )
    new = NETWORK.uniform(0.4)
    expected = float(
        truth.group_losses(np.array(new.widths) / np.array(NETWORK.dense.widths)).sum()
    )
    assert _loss(posterior, new) == pytest.approx(expected, abs=0.003)
    assert _deviation(posterior) < before / 2
    expected_losses = SHOWN.unit_losses(NETWORK, new) @ posterior.factors
    np.testing.assert_allclose(_loss(posterior, new), expected_losses)


@pytest.mark.parametrize("error", [0.0, 0.0025])
def test_a_gain_by_the_fine_tune_is_no_statement_about_the_groups(error: float) -> None:
    mild, narrow = NETWORK.uniform(0.8), NETWORK.uniform(0.4)
    truth = SHOWN.plan_loss(NETWORK, narrow)
    alone = LossPosterior(NETWORK, SHOWN)
    alone.learn(narrow, truth, error)
    after_gain = LossPosterior(NETWORK, SHOWN)
    after_gain.learn(mild, -0.03, error)
    assert (after_gain.factors > 0).all()
    after_gain.learn(narrow, truth, error)
    assert _loss(after_gain, narrow) == pytest.approx(_loss(alone, narrow), rel=0.1)
    chance = LossPosterior(NETWORK, SHOWN)
    chance.learn(mild, -error, error)
    as_far = LossPosterior(NETWORK, SHOWN)
    as_far.learn(mild, -3 * error - 0.01, error)
    assert (as_far.factors <= chance.factors).all(), "a gain still says that little is lost"


def test_an_uncertain_answer_teaches_less() -> None:
    sure = LossPosterior(NETWORK, SHOWN)
    unsure = LossPosterior(NETWORK, SHOWN)
    half = NETWORK.uniform(0.5)
    sure.learn(half, 0.05)
    unsure.learn(half, 0.05, 0.05)
    predicted = _loss(LossPosterior(NETWORK, SHOWN), half)
    assert predicted < _loss(unsure, half) < _loss(sure, half)
