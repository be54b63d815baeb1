"""Problems by name: a floor in the name, what a user adds, and one policy trained on many."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import gymnasium
import pytest
from typer.testing import CliRunner

from cprune_rl.agents.policies import open_policy
from cprune_rl.cli import app
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problems.registry import (
    add_problem,
    open_recorded,
    recorded_names,
    remove_problem,
    save_recorded,
)
from cprune_rl.errors import ConfigError, DataError, FloorError, UnknownNameError
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.live_problems import add_live_problem, live_options
from cprune_rl.pipeline.policy_config import PolicyConfig, load_policy_config
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.train_policy import train_on_problems


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where added problems go."""
    monkeypatch.setenv("CPRUNE_RL_PROBLEMS", str(tmp_path / "mine"))
    return tmp_path / "mine"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of somebody's device: the packaged one under another name."""
    problem = open_recorded("resnet8@znver4-1t")
    assert isinstance(problem.latency, RecordedLatency)
    file = tmp_path / "pixel8.json.gz"
    save_recorded(
        file,
        problem,
        problem.latency.interpolator.measured_tasks(),
        {"device": "cpu=Tensor G3", "command": "record [/x]"},
    )
    return file


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("resnet8", 0.01),
        ("resnet8:-0.02", 0.02),
        ("resnet8@znver4-2t:-0.005", 0.005),
        ("resnet8:0.97", None),
    ],
)
def test_a_name_may_end_in_a_floor(name: str, drop: float | None) -> None:
    problem = open_recorded(name)
    assert problem.floor == pytest.approx(0.97 if drop is None else problem.dense_accuracy - drop)
    assert CPruneEnv(name).reset(seed=0)[1]["accuracy"] == problem.dense_accuracy
    assert open_recorded(name, -0.03).floor == pytest.approx(problem.dense_accuracy - 0.03), (
        "what is asked for beside the name counts"
    )


def test_a_floor_in_a_name_that_nothing_can_hold_is_refused() -> None:
    with pytest.raises(FloorError, match="above"):
        open_recorded("resnet8:0.999")


def test_a_problem_that_was_added_opens_by_its_name(recording: Path, folder: Path) -> None:
    assert add_problem(recording) == "resnet8@pixel8"
    assert "resnet8@pixel8" in recorded_names(with_added=True)
    assert "resnet8@pixel8" not in recorded_names()
    assert (
        open_recorded("resnet8@pixel8:-0.02").network == open_recorded("resnet8@znver4-1t").network
    )
    remove_problem("resnet8@pixel8")
    assert list(folder.iterdir()) == []
    with pytest.raises(UnknownNameError, match="resnet8"):
        open_recorded("resnet8@pixel8")


def test_a_run_folder_can_be_added(recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "myrun"
    run.mkdir()
    (run / "problem.json").write_bytes(recording.read_bytes())
    assert add_problem(run, "resnet8@mine") == "resnet8@mine"


def test_a_run_of_a_users_network_has_a_name_by_itself(recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    value = json.loads(gzip.decompress(recording.read_bytes()))
    value["network"]["name"] = "/home/me/my nets/small.py:build"
    (run / "problem.json").write_text(json.dumps(value))
    assert add_problem(run) == "small-build@my-run"
    assert open_recorded("small-build@my-run").network.name == "/home/me/my nets/small.py:build"


def test_what_cannot_be_added_is_refused_with_the_reason(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"nowhere\.json"):
        add_problem(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="already"):
        add_problem(recording, "resnet8@znver4-1t")
    with pytest.raises(DataError, match="--name"):
        add_problem(recording, "resnet8@../up")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="no recorded problem"):
        add_problem(tmp_path / "x.json")
    with pytest.raises(UnknownNameError):
        remove_problem("resnet8@znver4-1t")


def test_the_commands_list_show_add_and_remove(recording: Path) -> None:
    runner = CliRunner()

    def told(*words: str) -> str:
        result = runner.invoke(app, ["problems", *words], env={"COLUMNS": "160"})
        assert result.exit_code == 0, result.output
        return result.output

    assert "resnet8@pixel8 is added" in told("add", str(recording))
    assert "yours" in told("list")
    shown = told("show", "resnet8@pixel8:-0.02")
    assert "Tensor G3" in shown
    assert "record [/x]" in shown, "a stranger's text is no markup"
    assert "removed" in told("remove", "resnet8@pixel8")
    assert "yours" not in told("list")


def test_one_policy_is_trained_on_many_problems_and_judged_on_others(tmp_path: Path) -> None:
    options = {
        "device_class": "znver4-1t",
        "held_out": "vgg-small",
        "timesteps": 512,
        "variants": 8,
        "out": tmp_path / "policy",
    }
    folder = train_on_problems(load_policy_config(options), ProgressLog())
    card = json.loads((folder / "policy.json").read_text())["card"]
    assert card["trained_on"] == [
        "mobilenetv2-small@znver4-1t",
        "resnet20@znver4-1t",
        "resnet8@znver4-1t",
    ]
    results = json.loads((folder / "results.json").read_text())
    assert {r["problem"] for r in results} == {"vgg-small@znver4-1t"}
    assert {r["method"] for r in card["results"]} == {"agent", "roll-out", "proxy-greedy", "cprune"}
    assert all(r["accuracy_evaluations"] > 0 and r["tasks"] > 0 for r in results)
    assert open_policy(str(folder), 16).observation_space.shape[0] == 16
    with pytest.raises(ConfigError, match="other options"):
        train_on_problems(load_policy_config({**options, "seed": 1}), ProgressLog())
    fine = train_on_problems(
        load_policy_config(
            {
                "problems": "vgg-small@znver4-1t:-0.01",
                "variants": 0,
                "timesteps": 256,
                "init": str(folder),
                "out": tmp_path / "fine",
            }
        ),
        ProgressLog(),
    )
    assert json.loads((fine / "policy.json").read_text())["card"]["options"]["init"] == str(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_class": "m1"}, "znver4-1t"),
        ({"problems": "resnet8@znver4-1t", "held_out": "resnet8@znver4-1t"}, "no problem is left"),
        ({"problems": "resnet9"}, "resnet8"),
        ({"problems": "resnet8", "init": "nobody"}, "nobody"),
    ],
)
def test_a_wrong_choice_of_problems_is_a_clear_error(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        train_on_problems(
            load_policy_config({**options, "out": tmp_path / "policy"}), ProgressLog()
        )


def test_options_of_a_run_and_of_a_policy_are_not_mixed() -> None:
    runner = CliRunner()
    for words, message in (
        (["--problems", "resnet8", "--floor", "-0.01"], "--floor"),
        (["--timesteps", "10"], "train-policy"),
        (["--policy", "a", "--init", "b"], "--init"),
    ):
        result = runner.invoke(app, ["train", *words])
        assert result.exception is not None
        assert message in str(result.exception)
    with pytest.raises(ConfigError, match="timesteps"):
        load_policy_config({"timesteps": -1})
    assert PolicyConfig(problems="a,b").problems == ("a", "b")  # type: ignore[arg-type]


def test_a_live_problem_is_kept_as_options_and_opened_by_name(
    tmp_path: Path, folder: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    (tmp_path / "net.py").write_text("def build(n_classes): ...")
    file.write_text("model: net.py:build\ndevice: local?threads=2\nfloor: -0.02\n")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    said = runner.invoke(app, ["problems", "add", str(file), "--name", "net@here"])
    assert said.exit_code == 0, said.output
    assert "prune --config net@here" in said.output
    monkeypatch.chdir("/")
    assert live_options("net@here") == {
        "model": f"{tmp_path / 'net.py'}:build",
        "device": "local?threads=2",
        "floor": [-0.02],
    }, "from anywhere"
    assert live_options("net@here:-0.05")["floor"] == -0.05
    assert "net@here" in runner.invoke(app, ["problems", "list"]).output
    assert "threads=2" in runner.invoke(app, ["problems", "show", "net@here"]).output
    with pytest.raises(ConfigError, match="live"):
        train_on_problems(load_policy_config({"problems": ("net@here",)}), ProgressLog())
    with pytest.raises(DataError, match="already"):
        add_live_problem(file, "net@here")
    with pytest.raises(DataError, match="already"):
        add_problem(recording, "net@here")
    with pytest.raises(UnknownNameError, match="live problem"):
        gymnasium.make("cprune_rl/CPrune-v0", problem="net@there")
    assert runner.invoke(app, ["problems", "remove", "net@here"]).exit_code == 0
    assert list(folder.iterdir()) == []


def test_a_run_takes_a_live_problems_options_and_flags_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: vgg-small\nfloor: -0.02\nseed: 3\n")
    add_live_problem(file, "vgg@here")
    seen: list[RunConfig] = []
    monkeypatch.setattr("cprune_rl.cli.prune._go", lambda run: seen.append(run.config))
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["prune", "--config", "vgg@here:-0.03", "--seed", "4"])
    assert said.exit_code == 0, said.output
    assert (seen[0].model, seen[0].floor, seen[0].seed) == ("vgg-small", (-0.03,), 4)
    said = CliRunner().invoke(
        app, ["prune", "--config", "vgg@here", "--floor=-0.01,-0.02", "--out", "front"]
    )
    assert said.exit_code == 0, said.output
    assert seen[1].floor == (-0.01, -0.02), "in the place of the floor that the problem has"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model: nonet", "nonet"),
        ("modle: resnet8", "modle"),
        ("- a", "options"),
        ("out: here", "folder"),
        ("device: recorded:resnet8", "measured"),
    ],
)
def test_wrong_options_are_not_added(tmp_path: Path, folder: Path, text: str, error: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=error):
        add_live_problem(file, "net@here")
    assert not folder.exists()
