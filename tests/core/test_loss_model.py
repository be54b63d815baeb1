"""The model of losses: terms of groups and layers, and how they are fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_rl.core.loss_model import LossModel, kept_ratios, scheme_penalty
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.testing import toy_network

NETWORK = toy_network()
DENSE = NETWORK.dense


def make_model() -> LossModel:
    return LossModel(np.array([0.05, 0.04, 0.03]), np.full(3, 2.0), np.array([1e-5, 3e-5]))


def test_a_group_loses_its_scale_times_a_power_of_what_is_removed() -> None:
    kept = np.array([[1.0, 0.5, 0.0]])
    np.testing.assert_allclose(make_model().group_losses(kept), [[0.0, 0.01, 0.03]])


def test_kept_ratios_are_shares_of_the_dense_widths() -> None:
    np.testing.assert_array_equal(kept_ratios(NETWORK, DENSE), np.ones(3))
    half = DENSE.with_width(1, DENSE.widths[1] // 2)
    np.testing.assert_array_equal(kept_ratios(NETWORK, half), [1.0, 0.5, 1.0])


@given(st.lists(st.floats(0.2, 1.0), min_size=3, max_size=3))
def test_a_narrower_plan_never_loses_less(ratios: list[float]) -> None:
    model = make_model()
    kept = np.array(ratios)
    assert (model.group_losses(kept * 0.9) >= model.group_losses(kept)).all()


def test_a_plan_loses_the_sum_of_its_terms() -> None:
    model = make_model()
    plan = Plan(NETWORK.uniform(0.5).widths, (("conv2", "block(8,0.25)"),))
    losses = model.unit_losses(NETWORK, plan)
    assert losses.shape == (model.n_units,) == (5,)
    assert model.plan_loss(NETWORK, plan) == pytest.approx(losses.sum())
    assert model.plan_loss(NETWORK, DENSE) == 0.0


def test_a_pruned_layer_loses_its_scale_times_the_penalty() -> None:
    model = make_model()
    plan = Plan(DENSE.widths, (("conv2", "block(8,0.25)"),))
    expected = 3e-5 * scheme_penalty(Scheme("block", 8, 0.25), 32)
    np.testing.assert_allclose(model.layer_losses(NETWORK, plan), [0.0, expected])
    bare = LossModel(model.scale, model.power)
    assert not bare.has_layers
    assert len(bare.layer_losses(NETWORK, plan)) == 0


def test_factors_scale_each_term() -> None:
    model = make_model()
    plan = Plan(NETWORK.uniform(0.5).widths, (("conv2", "block(8,0.25)"),))
    factors = np.arange(1.0, 6.0)
    np.testing.assert_allclose(
        model.scaled(factors).unit_losses(NETWORK, plan),
        factors * model.unit_losses(NETWORK, plan),
    )


def test_penalties_grow_with_sparsity_block_and_kind() -> None:
    order = [
        Scheme("block", 8, 0.5),
        Scheme("block", 8, 0.25),
        Scheme("block", 32, 0.25),
        Scheme("kernel", 32, 0.25),
        Scheme("kernel", 32, 0.125),
    ]
    penalties = [scheme_penalty(scheme, 64) for scheme in order]
    assert penalties == sorted(penalties)
    assert scheme_penalty(Scheme("block", 8, 1.0), 32) == 0.0


def test_a_layers_block_has_no_more_channels_than_the_layer() -> None:
    whole = scheme_penalty(Scheme("block", 1 << 20, 0.25), 32)
    assert whole == scheme_penalty(Scheme("block", 32, 0.25), 32)


def test_a_uniform_fit_adds_up_to_what_plans_lost() -> None:
    kept = np.array([[0.75, 0.75, 0.75], [0.5, 0.5, 0.5]])
    model = LossModel.fit_uniform(kept, np.array([0.0, 0.03]))
    assert np.ptp(model.scale) == 0.0
    assert model.group_losses(kept[1]).sum() == pytest.approx(0.03, rel=0.01), (
        "the plan that lost more counts for more"
    )
    assert model.group_losses(np.ones(3)).sum() == 0.0


def test_no_group_is_free_whatever_luck_fine_tunes_had() -> None:
    kept = np.array([[0.75, 0.75, 0.75], [0.5, 0.5, 0.5]])
    assert LossModel.fit_uniform(kept, np.array([-0.01, -0.002])).scale.min() > 0


def test_layers_are_fitted_beside_the_groups() -> None:
    model = make_model()
    plan = Plan(DENSE.widths, (("conv2", "block(8,0.25)"),))
    lost = np.array([model.plan_loss(NETWORK, plan)])
    fitted = LossModel(model.scale, model.power).with_fitted_layers(NETWORK, [plan], lost)
    np.testing.assert_allclose(fitted.layer_scale, 3e-5)
    np.testing.assert_array_equal(fitted.scale, model.scale)
