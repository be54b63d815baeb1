"""`cprune-rl prune`: a policy that was trained before prunes a network, for one floor or several,
within a budget.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cprune_rl import load
from cprune_rl.accuracy import data
from cprune_rl.accuracy.trainer import accuracy_on
from cprune_rl.agents.rl.policy import save_policy
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.cli import app
from cprune_rl.core.result import read_front, read_front_dense
from cprune_rl.errors import ConfigError, CPruneError, FloorError
from cprune_rl.models.onnx_export import can_export_onnx
from cprune_rl.pipeline.backends.recorded import RecordedBackend
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.finalize import FinalGate
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run import run
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.run_settings import gate_settings
from cprune_rl.pipeline.setup import check_names, open_context
from cprune_rl.testing import toy_problem
from cprune_rl.validation.run import validate_run
from tests.doubles.images import noise_data


def images(spec: data.DataSpec, fast: bool, advance: object) -> data.ImageData:
    return noise_data("specks", (128, 40, 200, 40))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy trained for a moment."""
    folder = tmp_path_factory.mktemp("policy")
    settings = TrainingSettings(
        total_timesteps=128, n_envs=8, max_rows=8, options={"n_steps": 16, "batch_size": 64}
    )
    save_policy(
        train_policy(lambda rng: toy_problem(), settings).policy, folder, {"trained_on": ["toy"]}
    )
    return folder


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path) -> dict[str, object]:
    """Of a run of a few steps on a recording."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(
        data.DATA_SETS, "specks", data.DataKind(load=images, summary="noise", presets=())
    )
    monkeypatch.setitem(
        EFFORTS,
        "fast",
        Effort(
            base_steps=2,
            finetune_steps=1,
            oracle_steps=1,
            calibration=(0.75, 0.5),
            total_timesteps=256,
        ),
    )
    return {
        "model": "resnet8",
        "data": "specks",
        "device": "recorded:resnet8",
        "floor": -1.0,
        "effort": "fast",
        "storage": f"sqlite:///{tmp_path}/costs.db",
        "policy": str(policy),
    }


def test_a_policy_prunes_alone_and_what_it_did_is_told(
    options: dict[str, object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(None, {**options, "out": tmp_path / "run"})
    (result,) = run(RunFolder.create(config), ProgressLog())
    assert result.rivals == ()
    assert result.main.speedup > 1
    assert json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())["card"] == {
        "trained_on": ["toy"]
    }
    told = capfd.readouterr().err
    assert "expected loss" in told
    assert "passes with" in told
    assert "to the floor" in told
    history = json.loads((tmp_path / "run" / "search_agent.json").read_text())["history"]
    assert any(step["why"] and step["expected_gain"] is not None for step in history)


def test_a_budget_ends_the_search_and_what_was_spent_before_is_taken_off(
    options: dict[str, object],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(
        RunFolder.create(
            load_config(
                None,
                {**options, "budget": "evaluations=1", "out": tmp_path / "run"},
            )
        ),
        ProgressLog(),
    )
    found = json.loads((tmp_path / "run" / "search_agent.json").read_text())
    assert found["cost"]["accuracy_evaluations"] == 1
    opened = RecordedBackend.open

    def open_paid(*arguments: Any) -> RecordedBackend:
        return dataclasses.replace(opened(*arguments), spent={"fresh_trials": 7})

    monkeypatch.setattr(RecordedBackend, "open", staticmethod(open_paid))
    small = {
        "budget": "trials=5",
        "storage": f"sqlite:///{tmp_path}/fresh.db",
        "out": tmp_path / "small",
    }
    run(RunFolder.create(load_config(None, {**options, **small})), ProgressLog())
    assert "nothing is searched" in capfd.readouterr().err.replace("\n", " ")


def test_a_front_is_one_network_for_each_floor_and_is_gone_on_with(
    options: dict[str, object], tmp_path: Path
) -> None:
    folder = RunFolder.create(
        load_config(None, {**options, "floor": "-0.9,-1", "out": tmp_path / "front"})
    )
    results = run(folder, ProgressLog())
    assert [result.floor for result in results] == [-0.9, -1.0]
    assert all(result.rivals == () for result in results), "no rival stands beside a front"
    points = read_front(folder.path / "front.json")
    assert [p.floor for p in points] == [None, -0.9, -1.0]
    dense = read_front_dense(folder.path / "front.json")
    assert dense is not None
    assert points[0].accuracy_test[0] == dense.reference.accuracy_test
    assert points[0].speedup == (1.0, 1.0, 1.0)
    assert all(p.cost["accuracy_evaluations"] >= 1 for p in points[1:])
    assert (folder.path / "front.png").stat().st_size > 1000
    assert {p.name for p in folder.path.glob("floor*")} == {"floor-0.9", "floor-1"}
    files = ("plan.json", *(("model.onnx",) if can_export_onnx() else ()))
    for name in ("floor-0.9", "floor-1"):
        assert [f for f in files if not (folder.path / name / f).is_file()] == []
        assert load(folder.path / name)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    before = (folder.path / "search_agent-1.json").stat().st_mtime_ns
    run(RunFolder.resume(folder.path), ProgressLog())
    assert read_front(folder.path / "front.json") == points
    assert (folder.path / "search_agent-1.json").stat().st_mtime_ns == before
    checks = validate_run(folder.path)
    assert all(c.passed is not False for c in checks)
    unchecked = [c for c in checks if c.passed is None]
    assert [c.claim.partition(",")[0] for c in unchecked] == [
        "dense/lib.so",
        "floor-0.9/lib.so",
        "floor-1/lib.so",
        "latency of the whole networks",
    ]
    assert all("recorded device" in c.found for c in unchecked)
    stated = json.loads((folder.path / "front.json").read_text())
    stated["points"][1]["accuracy_test"][0] += 0.01
    stated["points"][2]["n_params"] += 1
    for name in ("dense", "dense_finetuned"):
        stated[name]["accuracy_test"] += 0.01
    (folder.path / "front.json").write_text(json.dumps(stated))
    outcome = CliRunner().invoke(app, ["validate", str(folder.path)])
    assert outcome.exit_code == 1
    failed = [line for line in outcome.output.splitlines() if "FAIL" in line]
    assert ["test accuracy" in line or "parameters" in line for line in failed] == [True] * 3
    assert sum(line.split("FAIL")[1].strip().startswith("dense, ") for line in failed) == 1
    (folder.path / "dense" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="dense has no network"):
        validate_run(folder.path)


def test_a_margin_is_kept_above_the_floor_by_the_search_and_not_by_the_gate(
    options: dict[str, object], tmp_path: Path
) -> None:
    config = load_config(None, {**options, "floor": -0.05, "margin": 0.01})
    with open_context(config, ProgressLog(), 0.0) as context:
        dense_accuracy = context.dense.accuracy
        problem = context.problem(config.floor[0], config.margin)
        assert problem.floor == pytest.approx(dense_accuracy - 0.04)
        gate = FinalGate(gate_settings(config, config.floor[0]), context)
        on_gate_images = accuracy_on(context.trained_model.trainer, context.dense.reference, "gate")
        assert gate.floor == pytest.approx(on_gate_images - 0.05)
        with pytest.raises(FloorError, match=r"the margin 0\.06 leaves nothing to lose"):
            context.problem(config.floor[0], margin=0.06)


@pytest.mark.parametrize("floor_from", ["better", "given"])
def test_a_run_states_both_dense_networks_and_validate_judges_both(
    options: dict[str, object], tmp_path: Path, floor_from: str
) -> None:
    folder = tmp_path / "run"
    config = load_config(None, {**options, "floor_from": floor_from, "out": folder})
    with open_context(config, ProgressLog(), 0.0) as context:
        dense = context.dense
        floor = dense.reference_accuracy - 0.01
        assert context.problem(-0.01).floor == pytest.approx(floor)
        gate = FinalGate(gate_settings(config, -0.01), context)
        verdict = gate.judge(dense.reference, 1)
        assert verdict.passed, "the network that the floor is counted from holds it"
        assert verdict.lower_bound == verdict.accuracy
    (result,) = run(RunFolder.create(config), ProgressLog())
    assert result.floor_from == dense.counted_from
    assert result.dense_finetuned is not None
    trainer = context.trained_model.trainer
    stated = (result.dense.accuracy_test, result.dense_finetuned.accuracy_test)
    assert stated == (
        accuracy_on(trainer, dense.given, "test"),
        accuracy_on(trainer, dense.finetuned, "test"),
    )
    assert result.dense.estimate_ms == result.dense_finetuned.estimate_ms
    assert result.main.cost["train_s"] >= dense.train_s > 0
    checks = validate_run(folder)
    assert [c for c in checks if c.passed is False] == []
    told = [c.claim for c in checks if c.claim.startswith(("dense, ", "the floor is counted"))]
    assert len(told) == (2 if floor_from == "better" else 1)
    forged = json.loads((folder / "result.json").read_text())
    for name in ("dense", "dense_finetuned"):
        forged[name]["accuracy_test"] += 0.1
    (folder / "result.json").write_text(json.dumps(forged))
    failed = [c.claim for c in validate_run(folder) if c.passed is False]
    assert sum(claim.startswith("dense") for claim in failed) == 2
    other = next(folder.glob("dense-*.safetensors"))
    other.unlink()
    with pytest.raises(ConfigError, match=other.name):
        validate_run(folder)


def test_the_commands_defaults_are_below_the_file_and_the_flags(
    tmp_path: Path, policy: Path
) -> None:
    defaults = {"policy": str(policy), "seed": 7}
    file = tmp_path / "my.yaml"
    file.write_text("seed: 3\n")
    assert load_config(file, {}, defaults).seed == 3
    assert load_config(None, {}, defaults).seed == 7
    assert load_config(file, {"seed": 4}, defaults).seed == 4
    assert load_config(None, {}, defaults).policy == str(policy)
    assert load_config(None, {"init": str(policy)}, defaults).policy is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "nobody"], "nobody"),
        (["--floor=-0.01,-0.01"], "different"),
        (["--floor", "high"], "give numbers"),
        (["--device", "recorded:resnet8", "--predict", "always"], "--predict"),
    ],
)
def test_wrong_options_are_told_at_once(
    words: list[str], message: str, tmp_path: Path, policy: Path
) -> None:
    given = [
        "prune",
        *([] if "--policy" in words else ["--policy", str(policy)]),
        "--out",
        str(tmp_path / "run"),
        *words,
    ]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, CPruneError)
    assert message in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_without_a_trained_policy_nothing_can_go_unmeasured() -> None:
    with pytest.raises(ConfigError, match="--policy"):
        check_names(RunConfig(predict="always"))
