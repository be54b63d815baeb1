"""`cprune-rl compare`: equal terms; records survive lost processes, and hold when run again."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cprune_rl.agents.core.searcher import Budget, parse_budget
from cprune_rl.agents.registry import METHODS, compared_methods
from cprune_rl.cli import app
from cprune_rl.comparison import executors, runner
from cprune_rl.comparison.cases import make_cases
from cprune_rl.comparison.policy_store import PolicyStore, network_family, policies_to_train
from cprune_rl.comparison.records import Case, RunRecord, read_record, read_records, record_path
from cprune_rl.comparison.run_case import run_case
from cprune_rl.comparison.runner import Experiment, run_experiment
from cprune_rl.comparison.validation import check_record, is_valid
from cprune_rl.errors import ConfigError, UnknownNameError
from cprune_rl.pipeline.progress import ProgressLog

CASE = Case("resnet8@znver4-1t", -0.01, losses="drawn", seed=0)
GATED = CASE._replace(gate_images=50_000)
CHEAP = ("cprune", "uniform", "random", "exact")


def small(folder: Path, methods: tuple[str, ...] = CHEAP, **more: Any) -> Experiment:
    options = {
        "budget": Budget(4000, 20),
        "n_jobs": 2,
        "timesteps": 1024,
        "own_timesteps": 1024,
        **more,
    }
    cases = make_cases(["resnet8@znver4-1t"], range(2))
    return Experiment(folder=folder, cases=tuple(cases), methods=methods, **options)


def test_every_method_gives_a_record_within_its_budget(tmp_path: Path) -> None:
    policies = PolicyStore(tmp_path, timesteps=1024, own_timesteps=1024)
    for kind, case in policies_to_train(["transferred", "scratch", "finetuned"], [CASE]):
        policies.train(kind, case)
    for name in compared_methods():
        method = METHODS[name]
        if method.has_schemes:
            continue  # on recordings that have schemes (`test_scheme_problems.py`)
        budget = Budget(6000, 12, full_finetunes=3)
        record = run_case(GATED, name, budget=budget, policies=policies)
        assert record.method == name
        assert record.ended in ("itself", "budget")
        if method.role != "reference":
            assert record.cost["fresh_trials"] <= 6000
            assert record.cost["accuracy_evaluations"] <= 12
            assert record.cost["full_finetunes"] <= 3
            assert record.curve[-1][2] == pytest.approx(record.log_gain)
        assert record.holds, "what passes the gate truly holds, nearly always"
        assert record.accuracy >= record.floor_accuracy
        assert record.gate_images == GATED.gate_images
        is_charged = method.policy in ("scratch", "finetuned")
        assert (record.cost["policy_s"] > 0) == is_charged, "a policy of its own is charged"


def test_no_method_beats_the_optimum(tmp_path: Path) -> None:
    records = {
        name: run_case(CASE, name, budget=Budget(), policies=PolicyStore(tmp_path))
        for name in ("cprune", "surrogate", "evolution", "exact")
    }
    assert all(
        record.speedup <= records["exact"].speedup * (1 + 1e-9) for record in records.values()
    )
    assert records["exact"].cost["fresh_trials"] == 0


def test_a_gate_keeps_plans_from_being_kept_by_luck(tmp_path: Path) -> None:
    policies = PolicyStore(tmp_path)
    truth, few = (
        run_case(CASE._replace(gate_images=n), "mdp", budget=Budget(), policies=policies)
        for n in (None, 3_000)
    )
    assert few.speedup < truth.speedup, "so few images ask for a margin"
    assert few.floor_accuracy == truth.floor_accuracy
    assert RunRecord.from_json(few.to_json()) == few


def test_a_method_that_asks_the_gate_says_so_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--gate-images"):
        run_case(CASE, "verified", budget=Budget(), policies=PolicyStore(tmp_path))


def test_a_comparison_goes_on_where_it_was_and_refuses_other_terms(tmp_path: Path) -> None:
    run_experiment(small(tmp_path), ProgressLog())
    records = read_records(tmp_path)
    assert len(records) == 2 * len(CHEAP)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    gone = record_path(tmp_path, CASE, "random")
    gone.unlink()
    run_experiment(small(tmp_path), ProgressLog())
    for before, after in zip(records, read_records(tmp_path), strict=True):
        by_clock = {name: after.cost[name] for name in ("think_s", "wall_s")}
        assert after == replace(before, cost={**before.cost, **by_clock})
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path != gone), (
        "what was there is not run again"
    )
    sessions = json.loads((tmp_path / "sessions.json").read_text())
    assert [session["runs"] for session in sessions] == [2 * len(CHEAP), 1]
    with pytest.raises(ConfigError, match=r"other terms.*budget"):
        run_experiment(small(tmp_path, budget=Budget(10, 1)), ProgressLog())


def test_a_run_that_fails_or_is_killed_is_a_record_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_work", _sabotaged)
    run_experiment(small(tmp_path, ("cprune", "uniform", "random")), ProgressLog())
    records = {(r.case.seed, r.method): r for r in read_records(tmp_path)}
    assert len(records) == 6
    failed = records[0, "uniform"]
    assert failed.ended == "error"
    assert "killed" in str(failed.error)
    assert failed.speedup == 1.0
    assert records[1, "random"].error is None, "killed once, it is tried again"
    assert all(r.error is None for key, r in records.items() if key != (0, "uniform"))


def _sabotaged(job: runner._Job) -> None:
    """Killed always on one job, once on another; what it works on is marked as `_work` marks it."""
    once = job.experiment.folder / "killed-once"
    if (job.case.seed, job.name) == (0, "uniform") or (
        (job.case.seed, job.name) == (1, "random") and not once.exists()
    ):
        if job.name == "random":
            once.touch()
        job.marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    WORK(job)


WORK = runner._work


def test_a_record_is_checked_by_running_it_again(tmp_path: Path) -> None:
    run_experiment(small(tmp_path, ("cprune", "random")), ProgressLog())
    path = record_path(tmp_path, CASE, "random")
    assert all(check.passed for check in check_record(path))
    record = read_record(path)
    for wrong in (
        replace(record, latency_s=record.latency_s * 0.9),
        replace(record, accuracy=min(record.accuracy + 0.01, 1.0)),
        replace(record, cost={**record.cost, "accuracy_evaluations": 1.0}),
    ):
        path.write_text(wrong.to_json())
        assert not is_valid(path)
    path.write_text("{}")
    assert not is_valid(path)
    run = CliRunner().invoke(app, ["validate", str(record_path(tmp_path, CASE, "cprune"))])
    assert run.exit_code == 0, run.output


def test_the_commands_write_a_page_and_a_ranking(tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    options = "--problems resnet8@znver4-1t --methods cprune,uniform,exact --fronts=-0.02"
    command = ["compare", *options.split(), "--seeds", "1", "--jobs", "1", "--out", str(out)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    page = (out / "report.html").read_text()
    assert "cprune" in page
    assert "proxies" in {path.stem for path in (out / "tables").iterdir()}
    assert {r.floor for r in read_records(out)} == {-0.01, -0.02}
    next((out / "rows").glob("*uniform*")).write_text("{}")
    run = CliRunner().invoke(app, ["leaderboard", str(out)])
    assert run.exit_code == 0, run.output
    assert "5 of 6 runs were validated" in (out / "leaderboard.html").read_text()


def test_policies_are_trained_without_the_family_they_are_tried_on(tmp_path: Path) -> None:
    policies = PolicyStore(tmp_path, timesteps=1024, own_timesteps=1024)
    card = json.loads((policies.train("transferred", CASE) / "policy.json").read_text())["card"]
    assert card["trained_on"]
    assert not [n for n in card["trained_on"] if network_family(n) == "resnet"]
    cases = make_cases(["resnet8@znver4-1t", "resnet20@znver4-1t", "vgg-small@znver4-1t"], range(3))
    wanted = policies_to_train(["finetuned"], cases)
    assert [(kind, network_family(case.problem)) for kind, case in wanted] == [
        ("transferred", "resnet"),
        ("transferred", "vgg"),
        ("finetuned", "resnet"),
        ("finetuned", "resnet"),
        ("finetuned", "vgg"),
    ]


def test_a_recording_by_path_is_of_the_family_that_its_name_says() -> None:
    assert network_family("docs/results/schemes/resnet8@znver4-1t.json.gz") == "resnet"
    assert network_family("VGG-small@x") == "vgg"


def test_names_and_budgets_are_checked_before_anything_runs() -> None:
    assert parse_budget("trials=500, evaluations=20") == Budget(500, 20)
    assert parse_budget("") == Budget()
    for wrong in ("trials", "looks=3", "trials=-1", "trials=x", "minutes=inf"):
        with pytest.raises(ConfigError, match="trials=500"):
            parse_budget(wrong)
    with pytest.warns(FutureWarning, match="now called 'cprune'"):
        assert compared_methods(["greedy"]) == ["cprune"]
    assert compared_methods(["all"]) == [n for n, m in METHODS.items() if m.is_compared]
    with pytest.raises(UnknownNameError, match="agent"):
        compared_methods(["agnet"])
    (case,) = make_cases(["resnet8@znver4-2t:-0.02"], [0])
    assert case == Case("resnet8@znver4-2t", -0.02, losses="drawn", seed=0)
    with pytest.raises(UnknownNameError):
        make_cases(["nothing"], [0])


@pytest.mark.slow
def test_a_ray_cluster_gives_the_records_that_processes_give(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="an extra: pip install 'cprune-rl[ray]'")
    run_experiment(small(tmp_path / "here", ("cprune", "random")), ProgressLog())
    try:
        run_experiment(
            small(tmp_path / "there", ("cprune", "random"), backend="ray"), ProgressLog()
        )
        assert ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()
    in_processes = read_records(tmp_path / "here")
    on_ray = read_records(tmp_path / "there")
    for one, other in zip(in_processes, on_ray, strict=True):
        assert (one.case, one.method) == (other.case, other.method)
        assert (one.plan, one.curve) == (other.plan, other.curve)
    with pytest.raises(ConfigError, match="processes, ray"):
        run_experiment(small(tmp_path / "nowhere", backend="slurm"), ProgressLog())


def test_what_a_job_prints_is_not_for_the_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with executors._pool(1) as pool:
        pool.submit(print, "a remark", flush=True).result()
    assert capfd.readouterr().out == ""


def test_a_comparison_of_version_0_2_is_gone_on_with_and_holds(tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    shutil.copytree(Path(__file__).parents[1] / "data/comparison-0.2", folder)
    there = {path: path.read_bytes() for path in (folder / "rows").iterdir()}
    experiment = Experiment(
        folder=folder,
        cases=tuple(make_cases(["resnet8"], [0])),
        methods=("cprune", "uniform", "random"),
        budget=Budget(600, 12),
        n_jobs=1,
        timesteps=1000,
        own_timesteps=1000,
    )
    run_experiment(experiment, ProgressLog())
    assert all(path.read_bytes() == text for path, text in there.items())
    assert {record.method for record in read_records(folder)} == {
        "cprune",
        "exact",
        "random",
        "uniform",
    }
    for path in there:
        assert [check for check in check_record(path) if not check.passed] == []
