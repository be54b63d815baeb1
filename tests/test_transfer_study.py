"""The benchmark of policies on networks that they never met: its jobs and its figures."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def make_row(method: str, name: str, log_gain: float, evaluations: int = 10) -> dict[str, Any]:
    """A row whose curve reaches half of its gain with half of its evaluations."""
    return {
        "name": name,
        "floor": -0.01,
        "seed": 0,
        "losses": "drawn",
        "method": method,
        "training": 0,
        "log_gain": log_gain,
        "accuracy_evaluations": evaluations,
        "tasks": 50,
        "full_finetunes": 2,
        "curve": [(0, 5, 0.0), (evaluations // 2, 30, log_gain / 2), (evaluations, 50, log_gain)],
    }


ROWS = [
    make_row("agent", "a@x", 1.0),
    make_row("agent", "b@x", 0.5),
    make_row("random", "a@x", 0.5, 40),
    make_row("random", "b@x", 0.8, 40),
]


def test_a_share_is_of_the_best_gain_that_is_known_of_a_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = load("transfer_study.figures", monkeypatch)
    shares = [row["share"] for row in figures.add_shares(ROWS)]
    assert shares == [1.0, pytest.approx(0.625), 0.5, 1.0]
    nothing = [make_row("agent", "a@x", 0.0), make_row("random", "a@x", 0.0)]
    assert [row["share"] for row in figures.add_shares(nothing)] == [1.0, 1.0]


def test_methods_are_summed_up_beside_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = load("transfer_study.figures", monkeypatch)
    agent, random = figures.summarize(figures.add_shares(ROWS))
    assert agent["share"][0] == pytest.approx(0.8125)
    assert agent["in_evaluations"] == 10 + 20 * 2
    assert "agent_over_it" not in agent
    assert random["agent_below_it"] == 0.5, "slower on one recording of two"
    assert random["agent_over_it"][0] == pytest.approx(0.0625)
    assert list(figures.summarize_networks(figures.add_shares(ROWS))) == ["a", "b"]


def test_what_a_curve_had_reached_within_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = load("transfer_study.figures", monkeypatch)
    rows = figures.add_shares([make_row("agent", "a@x", 1.0)])
    reached = figures.share_by_cost(rows, "accuracy_evaluations")["agent"]
    at = dict(zip(figures.BUDGETS["accuracy_evaluations"], reached, strict=True))
    assert at[5] == [0.5, 0.5, 0.5]
    assert at[10][0] == at[120][0] == 1.0


def test_a_job_pays_on_a_replay_and_keeps_what_truly_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = load("transfer_study.jobs", monkeypatch)
    case = jobs.Case(name="resnet8@znver4-1t", floor=-0.02, seed=0)
    row = jobs.run_job(jobs.Job(case=case, label="CPrune", method="cprune"))
    assert row["method"] == "CPrune"
    assert row["log_gain"] > 0
    assert row["curve"][0][2] == 0.0
    assert row["curve"][-1] == (row["accuracy_evaluations"], row["tasks"], row["log_gain"])


def test_figures_are_written_as_tables_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = load("transfer", monkeypatch)
    result = transfer.summarize_part("families", transfer.figures.add_shares(ROWS))
    assert result["n_cases"] == 2
    assert transfer.report.method_table(result["methods"]).row_count == 2
    transfer.report.plot_share_by_cost(result["at_equal_cost"], tmp_path / "shares.png")
    assert (tmp_path / "shares.png").stat().st_size > 0
