"""Benchmarks say before they measure what is missing, and what exactly they will compare."""

import dataclasses
import importlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.core import loss_model as losses
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Plan

from .doubles.fake_records import synthetic

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a file of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_a_missing_runtime_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    load: Load,
) -> None:
    runtimes = load("runtimes")
    there = importlib.util.find_spec("json")
    specs = {"onnxscript": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specs.get(name, there))
    remedy = r"need onnxscript: pip install -c constraints\.txt -e '\.\[benchmark\]'"
    with pytest.raises(SystemExit, match=remedy):
        runtimes.require_rivals()
    specs.clear()
    runtimes.require_rivals()


@pytest.mark.parametrize(("kernel", "stride", "n_variants"), [(3, 1, 3), (3, 2, 2), (1, 1, 2)])
def test_a_convolution_is_compared_in_all_of_its_variants_between_maps_of_their_layout(
    kernel: int, stride: int, n_variants: int, load: Load
) -> None:
    convolution = load("layout_variants").Convolution
    shape = convolution(kernel=kernel, stride=stride, n_in=24, n_out=41, height=8)
    variants, at = shape.variants(make_target(1))
    assert len(variants.distinct[at]) == n_variants
    for f in variants.distinct[at]:
        variant = variants.all[f]
        call = variant.calls[at]
        assert (call.layouts[0], call.layouts[-1]) == (variant.layout, variant.layout)
        channels = variant.layout.index("C")
        assert (call.shapes[0][channels], call.shapes[-1][channels]) == (24, 41)


@pytest.mark.parametrize(
    ("channels", "lanes", "filled"), [(41, 16, 48), (41, 8, 48), (24, 16, 24), (83, 16, 96)]
)
def test_padded_channels_are_whole_blocks(
    channels: int, lanes: int, filled: int, load: Load
) -> None:
    convolution = load("layout_variants").Convolution
    shape = convolution(kernel=3, stride=1, n_in=channels, n_out=channels, height=8)
    padded = shape.padded(lanes)
    assert (padded.n_in, padded.n_out, padded.height) == (filled, filled, 8)


def test_the_protocol_tunes_a_task_once_for_each_plan(load: Load) -> None:
    tuning = load("tuning")
    convolution = load("layout_variants").Convolution
    shape = convolution(kernel=3, stride=1, n_in=24, n_out=24, height=8)
    network = shape.variants(make_target(1))[0].network
    n_tasks = len({w.key for w in network.workloads(network.dense)})
    trials = tuning._protocol_trials(network, [network.dense, network.dense])
    assert trials == 2 * 70 * n_tasks


def test_parts_that_are_not_measured_again_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    measurement = load("measurement")
    file = tmp_path / "figures.json"
    trial = [{"ratio": 12.0}]
    file.write_text(json.dumps({"trial": trial, "system": {}, "command": "of an earlier version"}))
    parts = {"trial": dict, "cache": lambda: [{"rows": 1}]}
    monkeypatch.setattr(measurement, "_parts", lambda _: parts)
    monkeypatch.setattr(sys, "argv", ["measurement.py", "--only", "cache", "--json", str(file)])
    measurement.main()
    figures = json.loads(file.read_text())
    assert figures["trial"] == trial
    assert figures["cache"] == [{"rows": 1}]
    assert set(figures["runs"]) == {"cache"}
    assert "command" not in figures


def test_a_row_of_the_docs_says_what_ended_it(load: Load) -> None:
    networks = load("networks")
    failed = {"what": "export", "found": "an operator|1", "status": "failed"}
    row = {"network": "resnet8", "size_px": 32, "passes": False, "findings": [failed]}
    row |= {"left_whole": {"fc": "gives the network's output", "c": "frozen (by me)"}}
    row["left_whole"] |= {"d": "'x.0' parts its channels", "e": "'x.1' parts its channels"}
    row |= {"layers": ["a", "c", "fc"], "prunable_layers": ["a"], "forms": ["NCHW"]}
    text = networks.markdown([row])
    assert "0 of 1 networks go the whole way (20" in text
    assert text.splitlines()[-1] == (
        "| resnet8 | 32x32 | NO | 1 of 3 | gives the network's output (1); frozen (1); "
        "parts its channels (2) | NCHW | export: an operator/1 |"
    )


def test_a_crash_is_a_row(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = load("networks")
    gone = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr(networks.subprocess, "run", lambda *_, **__: gone)
    assert networks.examine("resnet8", "local")["crash"] == "exit status -11"


def test_other_seeds_are_set_beside_the_intervals_of_the_first(load: Load) -> None:
    compare_seeds = load("other_seeds").compare_seeds
    records = synthetic(("agent", "cprune", "random"), floors=(-0.01,))
    worse = []
    for record in records:
        if record.method != "random" and record.error is None:
            latency_s = record.dense_s * 0.99 if record.method == "cprune" else record.latency_s
            worse.append(dataclasses.replace(record, seed=record.seed + 10, latency_s=latency_s))
    lines = {line["method"]: line for line in compare_seeds(records, worse)}
    assert set(lines) == {"agent", "cprune"}, "methods that both have"
    assert not lines["cprune"]["is_inside"]
    assert lines["cprune"]["other_seeds"] < 0.1


def test_the_break_even_density_lies_between_those_that_were_timed(load: Load) -> None:
    schemes = load("schemes")

    def break_even(*speedups: float) -> float | None:
        gains = {}
        for density, speedup in zip((0.5, 0.25, 0.125), speedups, strict=True):
            gains[f"block of 4, {density:g}"] = Interval(speedup, speedup, speedup)
        density: float | None = schemes._break_even("block of 4", gains)
        return density

    assert break_even(0.8, 1.25, 2.0) == pytest.approx(0.354, abs=0.001)
    assert break_even(1.1, 1.5, 2.0) == 0.5
    assert break_even(0.5, 0.6, 0.7) is None


def test_a_layer_is_compared_under_the_schemes_that_it_can_have(load: Load) -> None:
    schemes = load("schemes")
    layer = schemes.Layer(8, 8, 8)

    def kinds(layer: Any, density: float) -> set[str]:
        return {scheme.kind for scheme in schemes.schemes_of(layer, density).values()}

    assert kinds(layer, 0.5) == {"block", "kernel"}, "a pattern keeps four of nine entries at most"
    for density in schemes.DENSITIES:
        assert density >= 0.4 or kinds(layer, density) == {"block", "kernel", "pattern"}
    assert kinds(schemes.Layer(8, 8, 8, kernel=1), 0.25) == {"block"}
    network = schemes._described(layer, SimpleNamespace(target=make_target(1))).network
    for density in schemes.DENSITIES:
        for scheme in schemes.schemes_of(layer, density).values():
            network.schemes(Plan(network.dense.widths, (("conv", str(scheme)),)))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 1)])
def test_torchs_sparse_layer_is_torchs_dense_one_of_pruned_weights(
    kernel: int, stride: int, load: Load
) -> None:
    schemes = load("schemes")
    weight = torch.randn(10, 6, kernel, kernel)
    image = torch.randn(1, 6, 9, 9)
    weight[torch.rand(weight.shape) < 0.7] = 0
    layer = schemes.Layer(6, 10, 9, kernel=kernel, stride=stride)
    answer = schemes.sparse_run(layer, weight, image)()
    expected = torch.nn.functional.conv2d(image, weight, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(answer, expected.reshape(10, -1), rtol=1e-4, atol=1e-4)


def test_what_schemes_lose_is_fitted(load: Load) -> None:
    benchmark = load("scheme_losses")
    truth = {"block": 1.0, "kernel": 3.0, "pattern": 2.0}
    layers = {"a": [16], "b": [64]}
    kinds = ("block(4,", "block(16,", "kernel(8,", "kernel(16,", "pattern(4,")
    texts = [f"{kind}{density})" for kind in kinds for density in (0.35, 0.175, 0.09)]
    plans: list[dict[str, Any]] = []
    for text, other in zip(texts, reversed(texts), strict=True):
        plans.append({"schemes": {"a": text, "b": other}, "loss": 0.0})
    for plan in plans:
        plan["loss"] = 2e-4 * sum(
            benchmark._hardness(text, layers[layer][0], truth, 0.5, 1.8)
            for layer, text in plan["schemes"].items()
        )
    fit = benchmark.fit(
        [{"network": "made up", "layers": layers, "plans": [*plans, {"schemes": {}, "loss": 0.5}]}]
    )
    assert fit["n_plans"] == len(plans), "channels are not of this model"
    for name, value in {
        "kernel_over_block": 3.0,
        "pattern_over_block": 2.0,
        "block_power": 0.5,
        "density_power": 1.8,
    }.items():
        assert fit[name] == pytest.approx(value, rel=0.1)
    assert fit["log_deviation"] < 0.05


def test_what_searches_believe_of_losses_is_what_was_fitted() -> None:
    file = BENCHMARKS.parent / "docs/results/scheme_losses.json"
    fitted = json.loads(file.read_text())["fit"]
    believed = {
        "kernel_over_block": losses._COARSENESS["kernel"],
        "pattern_over_block": losses._COARSENESS["pattern"],
        "block_power": losses._BLOCK_POWER,
    }
    for name, value in (believed | {"density_power": losses.DENSITY_POWER}).items():
        assert value == pytest.approx(fitted[name], rel=0.1), "rounded, but no more than that"


def test_fronts_of_schemes_are_set_beside_channels_at_the_same_floor_and_latency(
    load: Load,
) -> None:
    fronts = load("scheme_fronts")

    def point(
        method: str,
        floor: float | None,
        *,
        ms: float,
        gained: float,
        schemes: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        cost = {} if floor is None else {"fresh_trials": 12.0, "accuracy_evaluations": 3.0}
        figures = {
            "shown_ms": ms,
            "speedup": (1 / ms,) * 3,
            "accuracy_test": (0.9, 0.89, 0.91),
            "gained_test": (gained, gained - 0.01, gained + 0.01),
        }
        return {"method": method, "floor": floor, "schemes": schemes, "cost": cost, **figures}

    blocks = {"conv": "block(4,0.25)"}
    between_ms = math.sqrt(0.8 * 0.4)
    points = [
        point("dense", None, ms=1.0, gained=0.0),
        point("agent", -0.01, ms=0.8, gained=-0.008),
        point("agent", -0.02, ms=0.4, gained=-0.02),
        point("mapping-rule", -0.01, ms=0.3, gained=-0.01, schemes=blocks),
        point("mapping-search", -0.01, ms=between_ms, gained=-0.01, schemes=blocks),
    ]
    front = {
        "network": "toy",
        "device": "cpu=A;mcpu=b;threads=2",
        "command": "cprune-rl prune",
        "points": points,
    }
    rows = fronts.table_rows(front)
    assert [row["over channels"] for row in rows] == ["", "", "", "2.67", "1.41"]
    above = [row["over channels at this latency, points"] for row in rows]
    assert above == [*[""] * 4, "+0.40"], "half way between two of channels; nothing beyond them"
    assert [row["floor, points"] for row in rows] == ["", "-1", "-2", "-1", "-1"]
    assert [row["layers with a scheme"] for row in rows] == ["", "0", "0", "1", "1"]
    assert {row["device"] for row in rows} == {"A as b, 2 threads"}
    assert fronts.page([front]).count("\n| toy |") == 5


def test_a_policy_that_buys_evaluations_ships_only_where_training_adds(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load("evaluations_policy")
    episode = study.play(study.untrained(), "resnet8@znver4-1t:-0.01", 0)
    price = 1e-4 * episode["seconds"]
    assert episode["return"] == pytest.approx(episode["log_gain"] - price)
    for added, verdict in (
        (0.0, "[0.000, 0.000] to the return: the rule ships"),
        (0.05, "the policy ships"),
    ):
        families = {
            family: {
                name: {
                    problem: [{"return": 1.0 + is_trained * added}]
                    for problem in study.problems(family)
                }
                for is_trained, name in enumerate(("untrained", "trained"))
            }
            for family in study.FAMILIES
        }
        study.show(families, study.Console())
        assert verdict in " ".join(capsys.readouterr().out.split())
