"""What the benchmarks say before they measure:

what is missing, and what exactly will be compared.
"""

import dataclasses
import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.core import loss_model as losses
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Plan

from .doubles.fake_records import synthetic

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_a_missing_runtime_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtimes, found = load("runtimes", monkeypatch), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found("json")
    )
    with pytest.raises(
        SystemExit, match=r"need onnxscript: pip install -c constraints\.txt -e '\.\[benchmark\]'"
    ):
        runtimes.require_rivals()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found("json"))
    runtimes.require_rivals()


@pytest.mark.parametrize(("kernel", "stride", "n_variants"), [(3, 1, 3), (3, 2, 2), (1, 1, 2)])
def test_a_convolution_is_compared_in_all_of_its_forms_between_maps_of_their_layout(
    kernel: int, stride: int, n_variants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = load("tuning", monkeypatch).Convolution(kernel, stride, 24, 41, 8)
    variants, at = shape.variants(make_target(1))
    assert len(variants.distinct[at]) == n_variants
    for f in variants.distinct[at]:
        call, variant = variants.all[f].calls[at], variants.all[f]
        assert (call.layouts[0], call.layouts[-1]) == (variant.layout, variant.layout)
        assert (
            call.shapes[0][variant.layout.index("C")],
            call.shapes[-1][variant.layout.index("C")],
        ) == (24, 41)


@pytest.mark.parametrize(
    ("channels", "lanes", "filled"), [(41, 16, 48), (41, 8, 48), (24, 16, 24), (83, 16, 96)]
)
def test_padded_channels_are_whole_blocks(
    channels: int, lanes: int, filled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = load("tuning", monkeypatch).Convolution(3, 1, channels, channels, 8).padded(lanes)
    assert (padded.n_in, padded.n_out, padded.height) == (filled, filled, 8)


def test_the_protocol_tunes_a_task_once_for_each_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = load("tuning", monkeypatch)
    network = tuning.Convolution(3, 1, 24, 24, 8).variants(make_target(1))[0].network
    assert tuning._protocol_trials(network, [network.dense, network.dense]) == 2 * 70 * len(
        {w.key for w in network.workloads(network.dense)}
    )


def test_parts_that_are_not_measured_again_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = load("measurement", monkeypatch)
    file = tmp_path / "figures.json"
    trial = [{"ratio": 12.0}]
    file.write_text(json.dumps({"trial": trial, "system": {}, "command": "of an earlier version"}))
    monkeypatch.setattr(
        measurement, "_parts", lambda _: {"trial": dict, "cache": lambda: [{"rows": 1}]}
    )
    monkeypatch.setattr(sys, "argv", ["measurement.py", "--only", "cache", "--json", str(file)])
    measurement.main()
    figures = json.loads(file.read_text())
    assert (figures["trial"], figures["cache"], set(figures["runs"])) == (
        trial,
        [{"rows": 1}],
        {"cache"},
    )
    assert "command" not in figures


def test_a_row_of_the_docs_says_what_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = load("networks", monkeypatch)
    text = networks.markdown([{"network": "resnet8", "size_px": 32, "error": "ModelError: a|b"}])
    assert (
        text.splitlines()[-1] == "| resnet8 | 32x32 | - | - |  | NO | NO | NO | ModelError: a/b |"
    )


def test_other_seeds_are_set_beside_the_intervals_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare_seeds = load("other_seeds", monkeypatch).compare_seeds
    rows = synthetic(("agent", "cprune", "random"), floors=(-0.01,))
    worse = [
        dataclasses.replace(
            r, seed=r.seed + 10, latency_s=r.dense_s * 0.99 if r.method == "cprune" else r.latency_s
        )
        for r in rows
        if r.method != "random" and r.error is None
    ]
    lines = {line["method"]: line for line in compare_seeds(rows, worse)}
    assert set(lines) == {"agent", "cprune"}, "methods that both have"
    assert not lines["cprune"]["is_inside"]
    assert lines["cprune"]["other_seeds"] < 0.1


def test_the_break_even_density_lies_between_those_that_were_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schemes = load("schemes", monkeypatch)

    def gains(**speedups: float) -> dict[str, Interval]:
        return {
            f"block of 4, {density[1:].replace('_', '.')}": Interval(value, value, value)
            for density, value in speedups.items()
        }

    assert schemes._break_even(
        "block of 4", gains(d0_5=0.8, d0_25=1.25, d0_125=2.0)
    ) == pytest.approx(0.354, abs=0.001)
    assert schemes._break_even("block of 4", gains(d0_5=1.1, d0_25=1.5, d0_125=2.0)) == 0.5
    assert schemes._break_even("block of 4", gains(d0_5=0.5, d0_25=0.6, d0_125=0.7)) is None


def test_a_layer_is_compared_under_the_schemes_that_it_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schemes = load("schemes", monkeypatch)
    layer = schemes.Layer(8, 8, 8)
    kinds = {
        density: {s.kind for s in schemes.schemes_of(layer, density).values()}
        for density in schemes.DENSITIES
    }
    assert kinds[0.5] == {"block", "kernel"}, "a pattern keeps four of nine entries at most"
    assert all(
        kinds[density] == {"block", "kernel", "pattern"} for density in kinds if density < 0.4
    )
    assert {s.kind for s in schemes.schemes_of(schemes.Layer(8, 8, 8, 1), 0.25).values()} == {
        "block"
    }
    network = schemes._described(layer, SimpleNamespace(target=make_target(1))).network
    for density in schemes.DENSITIES:
        for scheme in schemes.schemes_of(layer, density).values():
            network.schemes(Plan(network.dense.widths, (("conv", str(scheme)),)))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 1)])
def test_torchs_sparse_layer_is_torchs_dense_one_of_pruned_weights(
    kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemes = load("schemes", monkeypatch)
    weight, image = torch.randn(10, 6, kernel, kernel), torch.randn(1, 6, 9, 9)
    weight[torch.rand(weight.shape) < 0.7] = 0
    found = schemes.sparse_run(schemes.Layer(6, 10, 9, kernel, stride), weight, image)()
    expected = torch.nn.functional.conv2d(image, weight, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(found, expected.reshape(10, -1), rtol=1e-4, atol=1e-4)


def test_what_schemes_lose_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("scheme_losses", monkeypatch)
    truth = {"block": 1.0, "kernel": 3.0, "pattern": 2.0}
    layers = {"a": [16], "b": [64]}
    texts = [
        f"{kind}({block},{density})"
        for kind, blocks in (("block", (4, 16)), ("kernel", (8, 16)), ("pattern", (4,)))
        for block in blocks
        for density in (0.35, 0.175, 0.09)
    ]
    plans = [
        {"schemes": {"a": text, "b": other}, "loss": 0.0}
        for text, other in zip(texts, reversed(texts), strict=True)
    ]
    for plan in plans:
        plan["loss"] = 2e-4 * sum(
            benchmark._hardness(text, layers[layer][0], truth, 0.5, 1.8)
            for layer, text in plan["schemes"].items()
        )
    found = benchmark.fit(
        [{"network": "made up", "layers": layers, "plans": [*plans, {"schemes": {}, "loss": 0.5}]}]
    )
    assert found["n_plans"] == len(plans), "channels are not of this model"
    for name, value in {
        "kernel_over_block": 3.0,
        "pattern_over_block": 2.0,
        "block_power": 0.5,
        "density_power": 1.8,
    }.items():
        assert found[name] == pytest.approx(value, rel=0.1)
    assert found["log_deviation"] < 0.05


def test_what_searches_believe_of_losses_is_what_was_fitted() -> None:
    fitted = json.loads(
        (BENCHMARKS.parent / "docs" / "results" / "scheme_losses.json").read_text()
    )["fit"]
    believed = {
        "kernel_over_block": losses._COARSENESS["kernel"],
        "pattern_over_block": losses._COARSENESS["pattern"],
        "block_power": losses._BLOCK_POWER,
    }
    for name, value in (believed | {"density_power": losses.DENSITY_POWER}).items():
        assert value == pytest.approx(fitted[name], rel=0.1), "rounded, but no more than that"


def test_fronts_of_schemes_are_set_beside_channels_at_the_same_floor_and_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fronts = load("scheme_fronts", monkeypatch)

    def point(
        method: str, floor: float | None, shown_ms: float, gained: float, schemes: dict[str, str]
    ) -> dict[str, Any]:
        cost = {} if floor is None else {"fresh_trials": 12.0, "accuracy_evaluations": 3.0}
        figures = {
            "shown_ms": shown_ms,
            "speedup": (1 / shown_ms,) * 3,
            "accuracy_test": (0.9, 0.89, 0.91),
            "gained_test": (gained, gained - 0.01, gained + 0.01),
        }
        return {"method": method, "floor": floor, "schemes": schemes, "cost": cost, **figures}

    blocks = {"conv": "block(4,0.25)"}
    channels = [
        point("dense", None, 1.0, 0.0, {}),
        point("agent", -0.01, 0.8, -0.008, {}),
        point("agent", -0.02, 0.4, -0.02, {}),
    ]
    points = [
        *channels,
        point("mapping-rule", -0.01, 0.3, -0.01, blocks),
        point("mapping-search", -0.01, math.sqrt(0.8 * 0.4), -0.01, blocks),
    ]
    found = {
        "network": "toy",
        "device": "cpu=A;mcpu=b;threads=2",
        "command": "cprune-rl prune",
        "points": points,
    }
    rows = fronts.table_rows(found)
    assert [row["over channels"] for row in rows] == ["", "", "", "2.67", "1.41"]
    assert [row["over channels at this latency, points"] for row in rows] == [
        "",
        "",
        "",
        "",
        "+0.40",
    ], "half way between the two of channels; nothing beyond them"
    assert [row["floor, points"] for row in rows] == ["", "-1", "-2", "-1", "-1"]
    assert [row["layers with a scheme"] for row in rows] == ["", "0", "0", "1", "1"]
    assert {row["device"] for row in rows} == {"A as b, 2 threads"}
    assert fronts.page([found]).count("\n| toy |") == 5
