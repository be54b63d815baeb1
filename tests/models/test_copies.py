"""Copies of networks that keep what they computed."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from cprune_rl.errors import ModelError
from cprune_rl.models.copies import copy_network


def test_a_copy_has_the_maps_that_a_forward_kept_without_their_history() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    kept = model(torch.ones(1, 3, 8, 8))
    model.features = kept
    model.history = {"earlier": [kept, kept + 1]}
    copy = copy_network(model)
    torch.testing.assert_close(copy.features, kept.detach(), atol=0, rtol=0)
    assert copy.features.is_leaf
    assert copy.history["earlier"][0] is copy.features
    assert model.features is kept
    assert copy[0].weight is not model[0].weight


def test_weights_that_were_computed_before_are_copied() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        model = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    image = torch.ones(1, 3, 8, 8)
    expected = model(image)
    torch.testing.assert_close(copy_network(model)(image), expected)


def test_what_cannot_be_copied_is_an_error_of_one_line() -> None:
    model = nn.Conv2d(3, 4, 3)
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied: .*lock.*Keep nothing on its modules"):
        copy_network(model)
