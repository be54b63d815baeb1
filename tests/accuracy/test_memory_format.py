"""Maps with channels last where a network takes them so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.accuracy.memory_format import channels_last_where_possible


class Viewing(nn.Module):
    """Flattens its maps by a view, which only contiguous maps take."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.views = views
        self.layouts: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x)))
        self.layouts.append(x.is_contiguous())
        return x.view(x.size(0), -1) if self.views else x.flatten(1)


def images() -> torch.Tensor:
    made = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return made.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_the_layout_is_the_faster_one_that_the_network_takes(
    views: bool, is_training: bool
) -> None:
    model = Viewing(views).train(is_training)
    with channels_last_where_possible(model):
        for _ in range(2):
            assert model(images()).shape == (4, 144)
    assert model.layouts[-2:] == [views, views]
    assert model.training is is_training
    assert not model._forward_pre_hooks


def test_what_is_computed_is_the_same_in_both_layouts_and_trying_leaves_no_trace() -> None:
    torch.manual_seed(0)
    viewing = Viewing(views=True)
    flattening = Viewing(views=False)
    flattening.load_state_dict(viewing.state_dict())
    outputs = []
    for model in (viewing, flattening):
        torch.manual_seed(1)
        with channels_last_where_possible(model.train()):
            model(images()).sum().backward()
        outputs.append(model.eval()(images().contiguous()))
        assert model.norm.num_batches_tracked == 1
    torch.testing.assert_close(*outputs)


def test_an_error_of_the_network_itself_stays_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        channels_last_where_possible(model),
    ):
        model(images())
