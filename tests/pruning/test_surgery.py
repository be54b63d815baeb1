"""From a plan to a smaller network, and back from files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.errors import PlanError
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.surgery import (
    PlanFile,
    count_parameters,
    kept_indices,
    load_pruned,
    prune,
)
from tests.doubles.networks import packaged_network, uniform_plan

NAMES = ("resnet8-w8", "vgg-small", "resnet20")


def masked(model: nn.Module, coupled: CoupledGroups, plan: Plan) -> nn.Module:
    """Masks removed channels where they are written: an independent account of a plan."""
    masked_model = copy.deepcopy(model)
    modules = dict(masked_model.named_modules())
    names = list(modules)
    kept = kept_indices(coupled, plan)
    for group in coupled.groups:
        removed = sorted(set(range(group.channels)) - set(kept[group.name]))
        for layer in group.layers:
            modules[layer].weight.data[removed] = 0
            is_sequential = "downsample" in layer or "features" in layer
            norm_name = (
                names[names.index(layer) + 1] if is_sequential else layer.replace("conv", "bn")
            )
            norm = modules[norm_name]
            for value in (norm.weight.data, norm.bias.data, norm.running_mean):
                value[removed] = 0
    return masked_model


def plan_file(coupled: CoupledGroups, plan: Plan) -> PlanFile:
    """The plan of a resnet8-w8."""
    return PlanFile(
        model="resnet8-w8",
        n_classes=10,
        input_shape=(1, 3, 32, 32),
        kept=kept_indices(coupled, plan),
    )


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_the_pruned_network_computes_what_the_masked_one_does(
    name: str, data: st.DataObject
) -> None:
    model, coupled = packaged_network(name)
    plan = Plan(tuple(data.draw(st.integers(g.minimum, g.channels)) for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    widths = [len(pruned.get_submodule(group.name).weight) for group in coupled.groups]
    assert widths == list(plan.widths), "counts are exact"
    x = torch.randn(2, *MODELS[name].input_shape[1:])
    with torch.no_grad():
        expected = masked(model, coupled, plan)(x)
        torch.testing.assert_close(pruned(x), expected, atol=2e-4, rtol=1e-3)


def test_pruning_leaves_the_dense_network_as_it_was() -> None:
    model, coupled = packaged_network("resnet8-w8")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prune(model, coupled, Plan(tuple(g.minimum for g in coupled.groups)))
    torch.testing.assert_close(before, dict(model.state_dict()))


def test_a_saved_network_gives_the_same_outputs_bit_for_bit(tmp_path: Path) -> None:
    model, coupled = packaged_network("resnet8-w8")
    plan = uniform_plan(coupled, 0.5)
    pruned = prune(model, coupled, plan)
    plan_file(coupled, plan).write(tmp_path, pruned)
    loaded, plan_read = load_pruned(tmp_path)
    assert plan_read == plan_file(coupled, plan)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned(x))


@pytest.mark.parametrize("damage", ["missing", "json", "index", "layer", "weights"])
def test_a_damaged_plan_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    model, coupled = packaged_network("resnet8-w8")
    plan = uniform_plan(coupled, 1.0)
    plan_file(coupled, plan).write(tmp_path, model)
    path = tmp_path / "plan.json"
    value = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage == "json":
        path.write_text("{")
    elif damage == "index":
        value["groups"]["conv1"]["kept"] = [99]
    elif damage == "layer":
        value["groups"]["conv9"] = value["groups"].pop("conv1")
    else:
        value["groups"]["conv1"]["kept"] = [0, 1]
    if damage in ("index", "layer", "weights"):
        path.write_text(json.dumps(value))
    with pytest.raises(PlanError):
        load_pruned(tmp_path)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    _, coupled = packaged_network("resnet8-w8")
    plan = plan_file(coupled, uniform_plan(coupled, 0.5))
    plan.write(tmp_path, nn.Linear(1, 1))
    assert PlanFile.read(tmp_path) == plan
    assert json.loads((tmp_path / "plan.json").read_text())["schemes"] == {}


def test_zeros_of_a_layer_that_is_pruned_by_a_scheme_are_not_counted() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight[:, 0] = 0
        model[0].bias[:] = 0
        model[1].weight[0] = 0
    assert count_parameters(model) == 2 * 4 * 9 + 4 + 15 + 3
    assert count_parameters(model, [("0", "block(4,0.5)")]) == 4 * 9 + 4 + 15 + 3
