"""Compiled networks are compared with torch before a figure is stated: broken ones are found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

from cprune_rl.accuracy.comparison_images import comparison_images
from cprune_rl.cli import app
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.export.exported_network import LoweredModule
from cprune_rl.compiler.kernels import implementations
from cprune_rl.compiler.layouts.variants import LayoutVariants, VariantChoice
from cprune_rl.compiler.tuning import output_check
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import ModelError
from cprune_rl.pipeline.backends.base import FinishedNetwork
from cprune_rl.pipeline.compiled_check import CompiledCheck
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import layout_variants
from tests.compiler.test_network_tuner import TINY
from tests.doubles.images import contours_data

pytestmark = pytest.mark.slow
PLAIN, PACKED, WINOGRAD = range(3)
SMALL = Effort(
    base_steps=2,
    finetune_steps=2,
    oracle_steps=1,
    tuning=TINY,
    calibration=(0.5,),
    total_timesteps=2048,
    timing_rounds=2,
)
NETWORK = """
from torch import nn


def build(n_classes):
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_classes)]
    return nn.Sequential(*body, nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 3, 2, 1), *head)
"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    network: nn.Module = namespace["build"](10)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return comparison_images(contours_data())


@pytest.fixture(scope="module")
def coupled(model: nn.Module) -> CoupledGroups:
    return find_groups(model, torch.zeros(1, 3, 32, 32))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial is checked: torch has no counterpart of an operator."""
    monkeypatch.setattr(output_check, "_evaluate", lambda call, inputs: None)


def lowered_anew(model: nn.Module, coupled: CoupledGroups) -> LayoutVariants:
    return layout_variants(model, torch.zeros(1, 3, 32, 32), coupled)


class ChosenTuner(NetworkTuner):
    """Takes one variant for the whole network, whatever is faster."""

    chosen = PLAIN

    def choice(self, plan: Plan) -> VariantChoice:
        chosen = self.variants.uniform_choice(min(self.chosen, len(self.variants.all) - 1))
        self.tune_choice(plan, chosen)
        return chosen


def tuner_of(variants: LayoutVariants, device: LocalDevice, chosen: int) -> NetworkTuner:
    tuner = ChosenTuner(variants, device, open_store(None), TINY)
    tuner.chosen = chosen
    return tuner


def networks(
    model: nn.Module, coupled: CoupledGroups, variants: LayoutVariants
) -> Mapping[str, FinishedNetwork]:
    half = variants.network.uniform(0.5)
    return {
        "dense": FinishedNetwork(variants.network.dense, model),
        "agent": FinishedNetwork(half, prune(model, coupled, half)),
    }


def test_right_networks_agree_in_every_variant(
    model: nn.Module,
    coupled: CoupledGroups,
    images: NDArray[np.float32],
    device: LocalDevice,
    tmp_path: Path,
) -> None:
    variants = lowered_anew(model, coupled)
    assert len(variants.all) == 3, variants.note
    check = CompiledCheck(images=images, progress=ProgressLog())
    for chosen in (PLAIN, PACKED, WINOGRAD):
        tuner = tuner_of(variants, device, chosen)
        built = check.build(tuner, networks(model, coupled, variants), tmp_path / str(chosen))
        assert built.wrong is None
        assert all(path.is_file() for path in built.libraries.values())
        for agreement in built.agreement.values():
            assert agreement.relative_difference < 1e-3
            assert agreement.n_images == len(images) == 16
        assert check.right_variants(tuner, networks(model, coupled, variants)) is variants


def break_packed_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = implementations.pack

    def pack_wrongly(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
        packed = pack(weights, lanes)
        if weights.shape[1] == 16:  # of the second convolution on
            packed[0, ..., 3] *= 2
        return packed

    monkeypatch.setattr(implementations, "pack", pack_wrongly)


@pytest.mark.usefixtures("unchecked")
def test_a_broken_kernel_is_left_out_where_the_plain_layout_is_right(
    model: nn.Module,
    coupled: CoupledGroups,
    images: NDArray[np.float32],
    device: LocalDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_packed_convolutions(monkeypatch)
    variants = lowered_anew(model, coupled)
    check = CompiledCheck(images=images, progress=ProgressLog())
    tuner = tuner_of(variants, device, PACKED)
    right = check.right_variants(tuner, networks(model, coupled, variants))
    assert [variant.name for variant in right.all] == ["the plain NCHW layout"]
    assert right.network == variants.network
    assert "dense does not compute what torch computes" in right.left_out
    assert "the first layer that differs: layer '2' (nn.conv2d" in right.left_out
    assert "without packed NHWC and packed NHWC with Winograd" in right.left_out
    assert "--layouts plain" in right.left_out
    plain = tuner_of(right, device, PACKED)
    assert check.right_variants(plain, networks(model, coupled, right)) is right


@pytest.mark.usefixtures("unchecked")
def test_a_finished_network_that_is_wrong_is_built_in_the_plain_layout(
    model: nn.Module,
    coupled: CoupledGroups,
    images: NDArray[np.float32],
    device: LocalDevice,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    break_packed_convolutions(monkeypatch)
    variants = lowered_anew(model, coupled)
    check = CompiledCheck(images=images, progress=ProgressLog())
    tuner = tuner_of(variants, device, PACKED)
    finished = networks(model, coupled, variants)
    built = check.build(tuner, finished, tmp_path / "built")
    assert built.wrong == "dense"
    plain = check.plain_variants(tuner, finished, built)
    assert len(plain.all) == 1
    assert "the first layer that differs: layer '2'" in plain.left_out


def shift_biases(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Compile another bias of a layer than the network has."""
    arguments = LoweredModule.arguments

    def shifted(self: LoweredModule, values: Mapping[str, NDArray[Any]]) -> Any:
        return arguments(self, {**values, f"{layer}.bias": values[f"{layer}.bias"] + 1})

    monkeypatch.setattr(LoweredModule, "arguments", shifted)


def test_a_network_that_is_wrong_in_the_plain_layout_too_is_an_error_that_names_the_layer(
    model: nn.Module,
    coupled: CoupledGroups,
    images: NDArray[np.float32],
    device: LocalDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shift_biases(monkeypatch, "4")
    variants = lowered_anew(model, coupled)
    check = CompiledCheck(images=images, progress=ProgressLog())
    tuner = tuner_of(variants, device, WINOGRAD)
    message = "in the plain layout either: .*the first layer that differs: layer '4'.* in the plain"
    with pytest.raises(ModelError, match=message):
        check.right_variants(tuner, networks(model, coupled, variants))
    tuner = tuner_of(variants.only([PLAIN]), device, PLAIN)
    with pytest.raises(ModelError, match=message):
        check.right_variants(tuner, networks(model, coupled, variants))


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a small run."""
    monkeypatch.setitem(EFFORTS, "fast", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("mynet.py").write_text(NETWORK)
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 12, 12), np.uint8)
    np.savez("mine.npz", x=images, y=np.arange(400) % 10)
    options = ["prune", "--model", "mynet.py:build", "--data", "npz:mine.npz", "--out", "run"]
    return [*options, "--effort", "fast", "--floor", "-0.9", "--storage", "sqlite:///costs.db"]


def test_a_run_on_a_broken_compiler_ends_in_the_error_and_states_nothing(
    own_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_biases(monkeypatch, "5")
    done = CliRunner().invoke(app, own_network)
    assert isinstance(done.exception, ModelError)
    assert "the first layer that differs: layer '5'" in str(done.exception)
    assert not Path("run/result.json").exists()
    assert not Path("run/report.html").exists()
