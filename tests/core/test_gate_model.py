"""What is known of the final gate before it is asked agrees with what it then decides."""

from dataclasses import replace

import numpy as np
import pytest

from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.network import Plan
from cprune_rl.envs.problems.replay_gate import DrawnGate

MODEL = GateModel(n_images=10_000, dense_accuracy=0.99, floor=0.98)


@pytest.mark.parametrize("loss", [0.004, 0.0065, 0.0075, 0.0085])
@pytest.mark.parametrize("n_looks", [1, 5])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_networks_pass_as_often_as_is_said(loss: float, n_looks: int, is_absolute: bool) -> None:
    model = replace(MODEL, is_absolute=is_absolute)
    passed = [DrawnGate(model, seed).passes(Plan((8,)), loss, n_looks) for seed in range(400)]
    expected = model.pass_probability(loss, 0.0, n_looks)
    # Newcombe's bound is a little wider than the normal one that is planned with
    assert np.mean(passed) == pytest.approx(expected, abs=0.12)


def test_a_network_at_the_floor_seldom_passes() -> None:
    passed = [DrawnGate(MODEL, seed).passes(Plan((8,)), 0.01, 3) for seed in range(600)]
    assert np.mean(passed) < 0.03


def test_more_images_and_fewer_looks_ask_for_less() -> None:
    margin = MODEL.margin(0.01, 3)
    assert replace(MODEL, n_images=50_000).margin(0.01, 3) == pytest.approx(margin / 5**0.5)
    assert MODEL.margin(0.01, 1) < margin < MODEL.margin(0.01, 9)
    assert MODEL.planned_loss(3) < MODEL.slack
    assert replace(MODEL, n_images=4).planned_loss(3) > 0, "a search keeps some room"


def test_unpaired_images_ask_for_more() -> None:
    assert replace(MODEL, is_paired=False).margin(0.01, 3) > MODEL.margin(0.01, 3)


def test_a_belief_that_is_less_sure_is_nearer_to_even() -> None:
    sure, unsure = (MODEL.pass_probability(0.005, error, 3) for error in (0.0, 0.01))
    assert 0.5 < unsure < sure
    sure, unsure = (MODEL.pass_probability(0.02, error, 3) for error in (0.0, 0.01))
    assert sure < unsure < 0.5
