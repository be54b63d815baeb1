"""Plans for a calibration keep the share that they are to keep, each in its own way."""

import numpy as np
import pytest

from cprune_rl.core.diverse_plans import diverse_plans
from cprune_rl.testing import toy_network

NETWORK = toy_network((64, 96, 128))


def test_plans_keep_their_share_and_differ_by_group() -> None:
    ratios = (0.8, 0.5)
    plans = diverse_plans(NETWORK, ratios, seed=3)
    kept = np.array([plan.widths for plan in plans]) / np.array(NETWORK.dense.widths)
    assert kept.mean(axis=1) == pytest.approx(ratios, abs=0.02)
    assert (kept.max(axis=1) - kept.min(axis=1) > 0.05).all()
    assert plans == diverse_plans(NETWORK, ratios, seed=3)
    assert plans != diverse_plans(NETWORK, ratios, seed=4)


def test_one_more_ratio_leaves_the_plans_before_it() -> None:
    assert diverse_plans(NETWORK, (0.8, 0.5, 0.4), 0)[:2] == diverse_plans(NETWORK, (0.8, 0.5), 0)


def test_no_group_is_narrower_than_its_minimum() -> None:
    (plan,) = diverse_plans(NETWORK, [0.01], seed=0)
    assert plan.widths == tuple(group.minimum for group in NETWORK.groups)
