"""What version 0.2 wrote still opens: run folders, a front, a policy, a recording.

The frozen run and front are of resnet8-w8 on digits, with training of a few steps, on a recording.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.policies import open_policy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.cli import app
from cprune_rl.core.check import Check
from cprune_rl.core.result import Result, read_front
from cprune_rl.envs.problems.registry import describe_recorded, open_recorded
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.policy_config import PolicyConfig
from cprune_rl.pipeline.train_policy import _open_folder
from cprune_rl.validation.run import validate_run

DATA = Path(__file__).parents[1] / "data" / "v0_2"
RECORDING = "resnet8-w8.json"  # as the options of both call it
SEARCHES = {"run": ("agent", "greedy", "uniform"), "front": ("agent-0.4", "agent-0.6")}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders `run` and `front`, which no test may change."""
    folder = tmp_path_factory.mktemp("v0_2")
    for name in ("run", "front"):
        with tarfile.open(DATA / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    (folder / "run" / "report.html").touch()  # left out for its size
    return folder


@pytest.fixture
def copies(frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of both folders in the working folder, beside the recording that they name."""
    for name in ("run", "front"):
        shutil.copytree(frozen / name, tmp_path / name)
    shutil.copy(frozen / "run" / "problem.json", tmp_path / RECORDING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few_steps = Effort(base_steps=2, finetune_steps=1, oracle_steps=1, calibration=(0.75, 0.5))
    monkeypatch.setitem(EFFORTS, "fast", few_steps)
    return tmp_path


def wrong(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.passed is False]


def test_a_run_folder_holds_what_it_claims(frozen: Path) -> None:
    checks = validate_run(frozen / "run")
    assert wrong(checks) == []
    assert sum(check.passed is True for check in checks) > 10
    assert {check.found for check in checks if check.passed is None} == {
        "not checked: recorded device"
    }


def test_a_front_holds_what_it_claims(frozen: Path) -> None:
    assert [point.floor for point in read_front(frozen / "front" / "front.json")] == [
        None,
        -0.4,
        -0.6,
    ]
    checks = validate_run(frozen / "front")
    assert wrong(checks) == []
    assert sum(check.passed is True for check in checks) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "front"])
def test_a_run_goes_on_from_the_searches_that_it_finished(copies: Path, name: str) -> None:
    ended = "front.json" if name == "front" else "result.json"
    (copies / name / ended).unlink()
    searches = [copies / name / f"search_{label}.json" for label in SEARCHES[name]]
    before = [file.read_bytes() for file in searches]
    done = CliRunner().invoke(app, ["train", "--resume", name])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert [file.read_bytes() for file in searches] == before
    labels = {file.name for file in (copies / name).glob("search_*.json")}
    assert labels == {file.name for file in searches}, "nothing was searched again"
    assert wrong(validate_run(copies / name)) == []
    stated = json.loads((copies / name / ended).read_text())
    assert stated["floor_from"] == "given", "as its searches were told"
    assert stated["dense_finetuned"] is not None


def test_the_methods_of_a_run_have_the_names_of_today(frozen: Path) -> None:
    result = Result.read(frozen / "run" / "result.json")
    assert [method.method for method in result.methods] == ["cprune", "uniform", "agent"]
    assert '"greedy"' in (frozen / "run" / "result.json").read_text()


def test_a_policy_rolls_out_on_a_recording(frozen: Path) -> None:
    policy = open_policy(str(frozen / "run"), max_rows=32)
    problem = open_recorded(str(frozen / "run" / "problem.json"))
    search = PolicyRollOut(policy).search(problem, Budget())
    assert search.accepted[0].plan == problem.network.dense


def test_a_recording_says_where_it_comes_from(frozen: Path) -> None:
    file = str(frozen / "front" / "problem.json")
    described = describe_recorded(file)
    assert (described.network, described.data) == ("resnet8-w8", "digits")
    problem = open_recorded(file)
    assert problem.measured_s(problem.network.dense) == pytest.approx(described.dense_latency_s)


def test_the_folder_of_a_policys_training_is_gone_on_with(tmp_path: Path) -> None:
    old = {
        "problems": ["resnet8"],
        "device_class": None,
        "held_out": [],
        "schemes": "channel",
        "learner": "ppo",
        "variants": 256,
        "init": None,
        "seed": 3,
    }
    (tmp_path / "options.json").write_text(json.dumps(old))
    same = PolicyConfig(problems=("resnet8",), seed=3, out=tmp_path)
    assert _open_folder(same) == tmp_path
    with pytest.raises(ConfigError, match="other options"):
        _open_folder(PolicyConfig(problems=("resnet8",), seed=4, out=tmp_path))
