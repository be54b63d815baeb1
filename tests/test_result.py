"""What a run states, and how sure it is of it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cprune_rl.errors import ConfigError
from cprune_rl.intervals import median_interval, speedup_interval
from cprune_rl.report.tables import result_table
from cprune_rl.result import Figures, MethodResult, Result

COST = {"fresh_trials": 10.0, "cached_trials": 0.0, "accuracy_evaluations": 4.0, "measure_s": 2.0, "train_s": 3.0, "wall_s": 6.0}


def example() -> Result:
    dense, pruned = Figures(0.25, (0.24, 0.26), 0.24, 0.99, 1000, 5000), Figures(0.1, (0.09, 0.11), 0.11, 0.98, 400, 2000)
    gate = {"accuracy": 0.98, "lower_bound": 0.979, "floor": 0.978, "n_looks": 2, "passed": True}
    methods = [MethodResult(name, pruned, 2.5, (2.4, 2.6), gate, COST) for name in ("agent", "greedy")]
    return Result("resnet8", "contours", "local", "agent", 0, -0.01, dense, methods[0], (methods[1],))


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    example().write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == example()
    value = json.loads((tmp_path / "result.json").read_text())
    assert value["estimate_error_ratio"] == pytest.approx(0.1)
    assert value["rivals"][0]["method"] == "greedy"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 1}'])
def test_a_file_that_is_no_result_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match="no result of a finished run"):
        Result.read(tmp_path / "result.json")


def test_the_table_shows_every_method_with_its_interval() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(result_table(example()))
    text = console.export_text()
    assert "2.50 [2.40, 2.60]" in text
    assert all(name in text for name in ("dense", "greedy", "agent", "98.00%"))


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
