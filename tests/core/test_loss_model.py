"""Losses of accuracy by group, fitted to a few plans."""

import numpy as np
import pytest

from cprune_rl.core.loss_model import LossModel


def test_losses_that_are_alike_for_all_groups_add_up_to_what_plans_lost() -> None:
    kept = np.array([[0.75, 0.75, 0.75], [0.5, 0.5, 0.5]])
    loss_model = LossModel.fit_uniform(kept, np.array([0.0, 0.03]))
    assert np.ptp(loss_model.scale) == 0.0
    assert loss_model.group_losses(kept[1]).sum() == pytest.approx(0.03, rel=0.01), (
        "the plan that lost more says more"
    )
    assert loss_model.group_losses(np.ones(3)).sum() == 0.0
    assert LossModel.fit_uniform(kept, np.array([-0.01, -0.002])).scale.min() > 0, (
        "no group is free, whatever luck fine-tunes had"
    )
