"""Compiled networks are compared with torch before a figure is stated: broken ones are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from cprune_rl.compiler.layouts.variants import LayoutVariants, VariantChoice
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import CostStore, open_store
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
    sweep=(),
    calibration=(0.5,),
    total_timesteps=2048,
    timing_rounds=2,
)
NETWORK = """
from torch import nn


def build(n_classes):
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes))
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


@pytest.fixture(scope="module")
def variants(model: nn.Module, coupled: CoupledGroups) -> LayoutVariants:
    return layout_variants(model, torch.zeros(1, 3, 32, 32), coupled)


@pytest.fixture(scope="module")
def finished(
    model: nn.Module, coupled: CoupledGroups, variants: LayoutVariants
) -> dict[str, FinishedNetwork]:
    half = variants.network.uniform(0.5)
    return {
        "dense": FinishedNetwork(variants.network.dense, model),
        "agent": FinishedNetwork(half, prune(model, coupled, half)),
    }


@pytest.fixture(scope="module")
def store() -> Iterator[CostStore]:
    store = open_store(None)
    yield store
    store.close()


@pytest.fixture
def check(images: NDArray[np.float32]) -> CompiledCheck:
    return CompiledCheck(images=images, progress=ProgressLog())


class ChosenTuner(NetworkTuner):
    """Takes one variant for the whole network, whatever is faster."""

    chosen = PLAIN

    def choice(self, plan: Plan) -> VariantChoice:
        chosen = self.variants.uniform_choice(min(self.chosen, len(self.variants.all) - 1))
        self.tune_choice(plan, chosen)
        return chosen


OpenTuner = Callable[[LayoutVariants, int], NetworkTuner]


@pytest.fixture
def open_tuner(device: LocalDevice, store: CostStore) -> OpenTuner:
    def open_tuner(variants: LayoutVariants, chosen: int) -> NetworkTuner:
        tuner = ChosenTuner(variants, device, store, TINY)
        tuner.chosen = chosen
        return tuner

    return open_tuner


def test_right_networks_agree_in_every_variant(
    variants: LayoutVariants,
    finished: dict[str, FinishedNetwork],
    check: CompiledCheck,
    open_tuner: OpenTuner,
    tmp_path: Path,
) -> None:
    assert len(variants.all) == 3, variants.note
    for chosen in (PLAIN, PACKED, WINOGRAD):
        built = check.build(open_tuner(variants, chosen), finished, tmp_path / str(chosen))
        assert built.wrong is None
        assert all(path.is_file() for path in built.libraries.values())
        for agreement in built.agreement.values():
            assert agreement.relative_difference < 1e-3
            assert agreement.n_images == len(check.images) == 16
    tuner = open_tuner(variants, WINOGRAD)
    assert check.right_variants(tuner, finished) is variants


def break_kernels(
    monkeypatch: pytest.MonkeyPatch, modules: Sequence[LoweredModule], layer: str
) -> None:
    """Have a layer's kernel compute with other weights in some modules."""
    arguments = LoweredModule.arguments

    def broken(self: LoweredModule, values: Mapping[str, NDArray[Any]]) -> Any:
        arrays = arguments(self, values)
        for name, array in arrays.items():
            is_broken = any(self is module for module in modules)
            if is_broken and self.names[name] == f"{layer}.weight":
                arrays[name] = array * 1.5
        return arrays

    monkeypatch.setattr(LoweredModule, "arguments", broken)


def modules_of(variants: LayoutVariants, *positions: int) -> list[LoweredModule]:
    plans = [variants.network.dense, variants.network.uniform(0.5)]
    return [variants.all[at].lowered(plan) for at in positions for plan in plans]


def test_a_broken_kernel_is_left_out_where_the_plain_layout_is_right(
    variants: LayoutVariants,
    finished: dict[str, FinishedNetwork],
    check: CompiledCheck,
    open_tuner: OpenTuner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_kernels(monkeypatch, modules_of(variants, PACKED, WINOGRAD), "2")
    right = check.right_variants(open_tuner(variants, PACKED), finished)
    assert [variant.name for variant in right.all] == ["the plain NCHW layout"]
    assert right.network == variants.network
    assert "dense does not compute what torch computes" in right.left_out
    assert "the first layer that differs: layer '2' (nn.conv2d" in right.left_out
    assert "without packed NHWC and packed NHWC with Winograd" in right.left_out
    assert "--layouts plain" in right.left_out
    assert check.right_variants(open_tuner(right, PACKED), finished) is right


def test_of_several_layouts_only_the_wrong_one_is_left_out(
    variants: LayoutVariants,
    finished: dict[str, FinishedNetwork],
    check: CompiledCheck,
    open_tuner: OpenTuner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense = variants.network.dense
    break_kernels(monkeypatch, [variants.all[WINOGRAD].lowered(dense)], "2")
    right = check.right_variants(open_tuner(variants, WINOGRAD), finished)
    assert [variant.name for variant in right.all] == ["the plain NCHW layout", "packed NHWC"]
    assert "without packed NHWC with Winograd." in right.left_out


def test_a_finished_network_that_is_wrong_is_built_in_the_plain_layout(
    variants: LayoutVariants,
    finished: dict[str, FinishedNetwork],
    check: CompiledCheck,
    open_tuner: OpenTuner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    half = variants.network.uniform(0.5)
    break_kernels(monkeypatch, [variants.all[PACKED].lowered(half)], "2")
    tuner = open_tuner(variants, PACKED)
    built = check.build(tuner, finished, tmp_path / "built")
    assert built.agreement["dense"].holds
    assert built.wrong == "agent"
    plain = check.plain_variants(tuner, finished, built)
    assert len(plain.all) == 1
    assert "agent does not compute what torch computes" in plain.left_out
    assert "the first layer that differs: layer '2'" in plain.left_out


def shift_biases(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Compile another bias of a layer than the network has."""
    arguments = LoweredModule.arguments

    def shifted(self: LoweredModule, values: Mapping[str, NDArray[Any]]) -> Any:
        return arguments(self, {**values, f"{layer}.bias": values[f"{layer}.bias"] + 1})

    monkeypatch.setattr(LoweredModule, "arguments", shifted)


@pytest.mark.parametrize("chosen", [WINOGRAD, PLAIN])
def test_a_network_that_is_wrong_in_the_plain_layout_too_is_an_error_that_names_the_layer(
    chosen: int,
    variants: LayoutVariants,
    finished: dict[str, FinishedNetwork],
    check: CompiledCheck,
    open_tuner: OpenTuner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shift_biases(monkeypatch, "2")
    offered = variants if chosen == WINOGRAD else variants.only([PLAIN])
    message = "in the plain layout either: .*the first layer that differs: layer '2'.* in the plain"
    with pytest.raises(ModelError, match=message):
        check.right_variants(open_tuner(offered, chosen), finished)


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
    shift_biases(monkeypatch, "2")
    done = CliRunner().invoke(app, own_network)
    assert isinstance(done.exception, ModelError)
    assert "the first layer that differs: layer '2'" in str(done.exception)
    assert not Path("run/result.json").exists()
    assert not Path("run/report.html").exists()
