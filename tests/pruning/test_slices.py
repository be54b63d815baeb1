"""Where a network is cut: what goes, what is masked, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.errors import ModelError, PlanError
from cprune_rl.pruning.groups import find_slices
from cprune_rl.pruning.layer_cuts import cut_outputs, cut_tensor
from cprune_rl.pruning.slices import ChannelSlice, ChannelSlices, trainable_copy
from tests.doubles.networks import packaged_network

EXAMPLE = torch.zeros(1, 3, 32, 32)


def test_slices_are_read_off_alike_with_and_without_a_check() -> None:
    model, coupled = packaged_network("resnet8-w8")
    names = [group.name for group in coupled.groups]
    slices = find_slices(model, EXAMPLE, names)
    kept = {name: [0, 3] for name in names}
    checked = coupled.slices.prune(model, kept).state_dict()
    torch.testing.assert_close(slices.prune(model, kept).state_dict(), checked, atol=0, rtol=0)


def test_a_pruned_copy_computes_what_the_masked_network_does() -> None:
    model, coupled = packaged_network("vgg-small")
    kept = {coupled.groups[1].name: [1, 2, 5]}
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pruned = coupled.slices.prune(model, kept)(image)
        with coupled.slices.masked_for_now(model, kept):
            masked = model(image)
    torch.testing.assert_close(pruned, masked, atol=1e-4, rtol=1e-4)


def test_a_network_that_was_pruned_for_now_is_as_it_was() -> None:
    model, coupled = packaged_network("resnet8-w8")
    kept = {group.name: [0, 3] for group in coupled.groups}
    before = dict(model.named_parameters())
    values = {name: value.clone() for name, value in model.state_dict().items()}
    conv = model.get_submodule(coupled.groups[0].layers[0])
    channels = conv.out_channels
    for change in (coupled.slices.pruned_for_now, coupled.slices.masked_for_now):
        with change(model, kept):
            assert any(v is not before[n] for n, v in model.named_parameters()), "it is changed"
        assert all(value is before[name] for name, value in model.named_parameters())
        assert conv.out_channels == channels
        torch.testing.assert_close(dict(model.state_dict()), values, atol=0, rtol=0)


def test_a_parameter_outside_of_layers_is_cut_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(4.0))

    part = ChannelSlice(
        layer="",
        remove=cut_tensor("scale", 0),
        kind="tensor",
        group="g",
        positions=torch.arange(4).numpy(),
        channels=torch.arange(4).numpy(),
    )
    pruned = ChannelSlices({"g": 4}, [part]).prune(Scaled(), {"g": [0, 2]})
    assert pruned.get_parameter("scale").tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        ({"conv9": [0]}, "conv9.*does not have"),
        ({"conv1": []}, "channels 0 to 7"),
        ({"conv1": [8]}, r"keeps \[8\]"),
        ({"conv1": [-1]}, "channels 0 to 7"),
    ],
)
def test_channels_that_are_not_there_are_named(kept: dict[str, list[int]], what: str) -> None:
    model, coupled = packaged_network("resnet8-w8")
    with pytest.raises(PlanError, match=what):
        coupled.slices.prune(model, kept)
    with pytest.raises(PlanError, match=what), coupled.slices.masked_for_now(model, kept):
        pass


def test_a_layer_of_which_nothing_is_left_is_an_error() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear)
    positions = torch.arange(4).numpy()
    part = ChannelSlice(
        layer="0",
        remove=cut_outputs,
        kind="out",
        group="g",
        positions=positions,
        channels=torch.zeros(4, dtype=torch.int64).numpy(),
    )
    with pytest.raises(ModelError, match=r"nothing would be left of 0\.weight, 0\.bias"):
        ChannelSlices({"g": 2}, [part]).prune(model, {"g": [1]})


def test_a_copy_is_trainable_whatever_the_network_was() -> None:
    model = nn.Linear(2, 2).requires_grad_(False).train()
    copied = trainable_copy(model)
    assert all(parameter.requires_grad for parameter in copied.parameters())
    assert not copied.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
