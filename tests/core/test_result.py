"""What a run states, and how sure it is of it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cprune_rl.core.intervals import median_interval, noise_floor, speedup_interval
from cprune_rl.core.output_agreement import OutputAgreement
from cprune_rl.core.result import (
    DenseFigures,
    Figures,
    FrontPoint,
    MethodResult,
    Result,
    read_front,
    read_front_dense,
    write_front,
)
from cprune_rl.errors import ConfigError
from cprune_rl.reporting.run_tables import (
    NO_GAIN,
    agreement_note,
    dense_note,
    noise_note,
    prediction_note,
    results_table,
)

COST = {
    "fresh_trials": 10.0,
    "cached_trials": 0.0,
    "accuracy_evaluations": 4.0,
    "measure_s": 2.0,
    "train_s": 3.0,
    "wall_s": 6.0,
}


DENSE = Figures(
    latency_ms=0.25,
    latency_ci_ms=(0.24, 0.26),
    estimate_ms=0.24,
    accuracy_test=0.99,
    accuracy_test_ci=(0.98, 0.995),
    n_params=1000,
    macs=5000,
)
PRUNED = Figures(
    latency_ms=0.1,
    latency_ci_ms=(0.09, 0.11),
    estimate_ms=0.11,
    accuracy_test=0.98,
    accuracy_test_ci=(0.97, 0.99),
    n_params=400,
    macs=2000,
    compiled=OutputAgreement(relative_difference=2e-5, same_class=1.0, n_images=16),
)
GATE = {"accuracy": 0.98, "lower_bound": 0.979, "floor": 0.978, "n_looks": 2, "passed": True}


def method_result(name: str) -> MethodResult:
    return MethodResult(
        method=name, pruned=PRUNED, speedup=2.5, speedup_ci=(2.4, 2.6), gate=GATE, cost=COST
    )


def example() -> Result:
    return Result(
        model="resnet8",
        data="contours",
        device="local",
        method="agent",
        seed=0,
        floor=-0.01,
        dense=DENSE,
        main=method_result("agent"),
        rivals=(method_result("cprune"),),
        stages_s={"Finding tasks": 3.2},
        exported=("model.pt2", "model.onnx"),
        not_exported={"pte": "no form"},
    )


def front() -> list[FrontPoint]:
    agreement = OutputAgreement(relative_difference=1e-5, same_class=1.0, n_images=16)
    dense = FrontPoint(
        method="dense",
        floor=None,
        folder="dense",
        shown_ms=0.25,
        latency_ci_ms=(0.24, 0.26),
        speedup=(1.0, 1.0, 1.0),
        accuracy_test=(0.99, 0.98, 0.995),
        gained_test=(0.0, 0.0, 0.0),
        n_params=1000,
        gate={},
        cost={},
        compiled=agreement,
    )
    pruned = replace(
        dense, method="cprune", floor=-0.01, folder="floor-0.01", speedup=(2.5, 2.4, 2.6), gate=GATE
    )
    return [dense, pruned]


def test_a_front_survives_its_file_and_one_of_0_2_is_read(tmp_path: Path) -> None:
    file = tmp_path / "front.json"
    write_front(file, front(), DenseFigures(given=DENSE), "measured")
    assert read_front(file) == front()
    assert json.loads(file.read_text())["latency_source"] == "measured"
    file.write_text(file.read_text().replace('"cprune"', '"greedy"'))
    assert read_front(file)[1].method == "cprune"


@pytest.mark.parametrize("text", ["", "{}", '{"points": 1}', '{"points": []}'])
def test_a_file_that_is_no_front_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(ConfigError, match="no finished front"):
        read_front(tmp_path / "front.json")


def test_a_result_says_how_compiled_networks_agree_and_one_of_0_2_says_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "result.json"
    result = replace(example(), compiled_note="agent is compiled without packed NHWC")
    result.write(file)
    assert Result.read(file) == result
    value = json.loads(file.read_text())
    assert value["pruned"]["compiled"] == {
        "relative_difference": 2e-5,
        "same_class": 1.0,
        "n_images": 16,
    }
    note = agreement_note(result)
    assert "on 16 images: their answers are at most 2e-05 of the spread" in note
    assert note.endswith("agent is compiled without packed NHWC")
    del value["compiled_note"], value["pruned"]["compiled"], value["dense"]["compiled"]
    for rival in value["rivals"]:
        del rival["pruned"]["compiled"]
    file.write_text(json.dumps(value))
    old = Result.read(file)
    assert old.main.pruned.compiled is None
    assert agreement_note(old) == ""


def test_a_front_begins_with_the_dense_network(tmp_path: Path) -> None:
    dense = DenseFigures(given=DENSE)
    write_front(tmp_path / "front.json", front()[::-1], dense, "measured")
    with pytest.raises(ConfigError, match="its first network is to be the dense one"):
        read_front(tmp_path / "front.json")


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    example().write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == example()
    value = json.loads((tmp_path / "result.json").read_text())
    assert value["estimate_error_ratio"] == pytest.approx(0.1)
    assert value["rivals"][0]["method"] == "cprune"


def both_dense() -> Result:
    """The same run, whose dense network gained half a point by the full fine-tune."""
    finetuned = replace(DENSE, accuracy_test=0.995, accuracy_test_ci=(0.99, 0.998))
    return replace(example(), dense_finetuned=finetuned, floor_from="finetuned")


def test_both_dense_networks_survive_their_file_and_a_file_of_0_2_has_one(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    both_dense().write(file)
    assert Result.read(file) == both_dense()
    assert Result.read(file).reference.accuracy_test == 0.995
    value = json.loads(file.read_text())
    assert value["dense"]["accuracy_test"] == 0.99
    del value["dense_finetuned"], value["floor_from"]
    file.write_text(json.dumps(value))
    assert Result.read(file) == example()
    assert Result.read(file).reference == DENSE


def test_a_front_says_what_it_knows_of_both_dense_networks(tmp_path: Path) -> None:
    file = tmp_path / "front.json"
    dense = both_dense().dense_figures
    write_front(file, front(), dense, "measured")
    assert read_front_dense(file) == dense
    value = json.loads(file.read_text())
    file.write_text(json.dumps({name: value[name] for name in ("latency_source", "points")}))
    assert read_front_dense(file) is None, "0.2 did not say"
    file.write_text(json.dumps({**value, "floor_from": "nowhere"}))
    with pytest.raises(ConfigError, match="floor_from: Input should be 'given' or 'finetuned'"):
        read_front_dense(file)


def test_the_floor_is_not_counted_from_a_network_of_which_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of which nothing is said"):
        replace(example(), floor_from="finetuned")


def test_the_table_has_both_dense_networks_and_a_note_says_which_the_floor_means() -> None:
    names = [row.name for row in results_table(both_dense()).items]
    assert names == ["dense", "dense, fine-tuned", "cprune", "agent"]
    note = dense_note(both_dense().dense_figures)
    assert "after the full fine-tune" in note
    assert "+0.50 points on test images" in note
    given = replace(both_dense(), floor_from="given")
    assert "as it was given" in dense_note(given.dense_figures)
    assert dense_note(example().dense_figures) == ""


def estimates() -> Result:
    """The same run on a recording."""
    result = example()

    def unmeasured(figures: Figures) -> Figures:
        return replace(figures, latency_ms=None, latency_ci_ms=None)

    main, rival = (replace(m, pruned=unmeasured(m.pruned)) for m in (result.main, *result.rivals))
    return replace(
        result,
        device="recorded:x",
        dense=unmeasured(result.dense),
        main=main,
        rivals=(rival,),
        latency_source="recorded: x, 9 tasks timed on a board",
    )


def test_a_result_of_a_recording_says_that_its_latencies_are_estimates(tmp_path: Path) -> None:
    estimates().write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == estimates()
    value = json.loads((tmp_path / "result.json").read_text())
    assert value["latency_source"] == "recorded: x, 9 tasks timed on a board"
    assert (
        value["dense"]["latency_ms"],
        value["pruned"]["latency_ms"],
        value["estimate_error_ratio"],
    ) == (None, None, None)
    text = table_text(estimates())
    assert "estimate, ms" in text
    assert "speed-up, estimate" in text
    assert "0.110" in text
    assert "nothing was built or timed" in noise_note(estimates())


def test_latencies_are_all_measured_or_all_estimates() -> None:
    with pytest.raises(ValueError, match="does not fit the latencies"):
        replace(example(), latency_source="recorded: x")
    with pytest.raises(ValueError, match="has an interval"):
        replace(example().dense, latency_ms=None)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 1}'])
def test_a_file_that_is_no_result_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match="no result of a finished run"):
        Result.read(tmp_path / "result.json")


def test_the_table_shows_every_method_with_its_interval() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(results_table(example()).for_terminal())
    text = console.export_text()
    assert "2.50 [2.40, 2.60]" in text
    assert all(name in text for name in ("dense", "cprune", "agent", "98.00 [97.00, 99.00]"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 4.0))
def test_an_interval_holds_its_value_and_a_speedup_its_ratio(seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    pruned = 1e-3 * np.exp(rng.normal(0, 0.02, 40))
    found = speedup_interval(pruned * ratio, pruned)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(ratio, rel=1e-6)
    middle = median_interval(pruned)
    assert middle.low <= np.median(pruned) <= middle.high


def test_samples_that_do_not_vary_have_an_interval_of_one_point() -> None:
    assert median_interval(np.full(10, 2.0)).low == 2.0


def table_text(result: Result) -> str:
    console = Console(width=180, record=True, file=io.StringIO())
    console.print(results_table(result).for_terminal())
    return console.export_text()


@pytest.mark.parametrize(
    ("speedup", "interval", "floor", "is_gain"),
    [
        (1.5, (1.4, 1.6), 0.02, True),
        (1.015, (1.01, 1.02), 0.02, False),
        (1.03, (0.99, 1.07), 0.02, False),
        (0.8, (0.7, 0.9), 0.02, False),
    ],
)
def test_a_speedup_within_the_noise_is_not_called_a_gain(
    speedup: float, interval: tuple[float, float], floor: float, is_gain: bool, tmp_path: Path
) -> None:
    main = replace(example().main, speedup=speedup, speedup_ci=interval)
    result = replace(example(), main=main, noise_floor=floor)
    assert result.has_gain(main) == is_gain
    assert (NO_GAIN in table_text(result)) == (not is_gain)
    assert "noise floor: +-2.0%" in noise_note(result)
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


def test_a_result_from_before_the_noise_floor_is_read_and_says_nothing_of_it(
    tmp_path: Path,
) -> None:
    example().write(tmp_path / "result.json")
    value = json.loads((tmp_path / "result.json").read_text())
    del value["noise_floor"]
    (tmp_path / "result.json").write_text(json.dumps(value))
    found = Result.read(tmp_path / "result.json")
    assert found.noise_floor is None
    assert noise_note(found) == ""


@pytest.mark.parametrize("floor", [-0.1, "big"])
def test_a_noise_floor_that_is_no_share_is_refused(floor: object, tmp_path: Path) -> None:
    example().write(tmp_path / "result.json")
    value = {**json.loads((tmp_path / "result.json").read_text()), "noise_floor": floor}
    (tmp_path / "result.json").write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="no result of a finished run"):
        Result.read(tmp_path / "result.json")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.001, 0.1))
def test_the_noise_floor_is_of_the_size_of_the_noise(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = (1e-3 * np.exp(rng.normal(0, sigma, 40)) for _ in range(2))
    assert 0 <= noise_floor(first, second) < 2 * sigma


def test_a_report_says_what_share_of_the_estimates_was_predicted() -> None:
    measured = example()
    assert prediction_note(measured) == ""
    history = [{"predicted_share": 0.5}, {"predicted_share": 0.0}, {}]
    line = prediction_note(replace(measured, main=replace(measured.main, history=history)))
    assert "17% of agent's were predicted" in line
    assert "cprune" not in line
