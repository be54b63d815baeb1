"""Options: flags over file over defaults, and errors that say what to do."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cprune_rl import __version__
from cprune_rl.cli import app, main
from cprune_rl.errors import ConfigError, CPruneError, DataError
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.setup import check_names
from cprune_rl.validation.run import validate_run


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("floor: -0.02\nseed: 3\n")
    config = load_config(file, {"seed": 5, "model": None})
    assert (config.floor, config.seed, config.model) == ((-0.02,), 5, "resnet8")


def test_a_method_is_accepted_by_its_old_name_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="now called 'cprune'"):
        config = load_config(None, {"methods": "greedy,mdp"})
    assert (config.own_method, config.rivals) == ("cprune", ("mdp",))


def test_a_longer_fine_tune_leaves_the_other_budgets_of_an_effort() -> None:
    light = load_config(None, {"effort": "light"}).work
    longer = load_config(None, {"effort": "light", "finetune_steps": 3000}).work
    assert longer == dataclasses.replace(light, finetune_steps=3000)
    assert load_config(None, {"effort": "fast", "finetune_steps": 7}).work.finetune_steps == 7
    with pytest.raises(ConfigError, match="finetune_steps"):
        load_config(None, {"finetune_steps": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flor: -0.02", "flor"),
        ("floor: high", "floor"),
        ("floor: -3", "one point below"),
        ("- a list", "options such as"),
        ("a: [", "cannot read"),
        ("seed: -1", "seed"),
    ],
)
def test_a_wrong_file_of_options_is_a_clear_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file, {})


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [
        ("--model", "resnet9", "resnet8"),
        ("--data", "contour", "contours"),
        ("--methods", "agents", "agent"),
        ("--device", "lokal", "local"),
    ],
)
def test_a_wrong_name_is_answered_with_the_one_that_was_meant(
    flag: str, value: str, meant: str, tmp_path: Path
) -> None:
    outcome = CliRunner().invoke(app, ["train", flag, value, "--out", str(tmp_path / "run")])
    assert isinstance(outcome.exception, CPruneError)
    assert f"Did you mean '{meant}'" in str(outcome.exception)
    assert not (tmp_path / "run").exists(), "a run that cannot start leaves nothing"


def test_every_option_of_a_run_has_a_flag_and_its_description() -> None:
    text = (
        CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    )
    for name, field in RunConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert (field.description or "?").split(".")[0][:30] in text
    assert "--config" in text
    assert "--resume" in text


def test_a_folder_with_a_run_in_it_is_not_written_over(tmp_path: Path) -> None:
    RunFolder.create(RunConfig(out=tmp_path, seed=7))
    with pytest.raises(ConfigError, match="--resume"):
        RunFolder.create(RunConfig(out=tmp_path))
    resumed = RunFolder.resume(tmp_path)
    assert (resumed.config.seed, resumed.path) == (7, tmp_path)


@pytest.mark.parametrize("call", [RunFolder.resume, validate_run])
def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path, call: object) -> None:
    with pytest.raises(ConfigError):
        call(tmp_path)  # type: ignore[operator]


def test_a_resumed_run_takes_no_other_options(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["train", "--resume", str(tmp_path), "--floor", "-0.02"])
    assert isinstance(outcome.exception, ConfigError)
    assert "--floor" in str(outcome.exception)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("command", ["train", "record"])
def test_only_a_run_is_gone_on_with(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "run"
    monkeypatch.setattr("cprune_rl.api.run_whole", full_disk)
    monkeypatch.setattr("cprune_rl.pipeline.record_problem.record", full_disk)
    monkeypatch.setattr(
        "sys.argv",
        [
            "cprune-rl",
            *(["train", "--out", str(target)] if command == "train" else ["record", str(target)]),
        ],
    )
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert (f"--resume {target}" in said) == (command == "train")
    assert ("--resume" in said) == (command == "train")


def test_a_recording_that_could_not_be_written_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprune_rl.pipeline.record_problem._open_live", full_disk)
    for to, what in (
        (tmp_path / "none" / "x.json.gz", "there is no folder"),
        (tmp_path, "it is a folder"),
    ):
        outcome = CliRunner().invoke(
            app, ["record", str(to), "--storage", f"sqlite:///{tmp_path}/costs.db"]
        )
        assert isinstance(outcome.exception, ConfigError)
        assert what in str(outcome.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="cannot make"):
        RunFolder.create(RunConfig(out=Path("/proc/none/run")))


def test_the_program_says_its_version_and_takes_options_with_hyphens() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).output.strip() == f"cprune-rl {__version__}"
    assert (
        "--train-device"
        in runner.invoke(app, ["train", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    )


@pytest.mark.parametrize(
    "name", ["supernets", "finetune:", "finetune:0", "finetune:x", "supernet:3"]
)
def test_an_oracle_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="give finetune, finetune:STEPS, supernet or recalibrate"):
        load_config(None, {"oracle": name})
    assert load_config(None, {"oracle": "finetune:80"}).oracle == "finetune:80"


def test_paths_in_names_are_whole_in_a_runs_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.npz").touch()
    Path("mynet.py").write_text("def build(n_classes): ...")
    config = load_config(
        None, {"model": "mynet.py:build", "data": "npz:mine.npz?seed=3", "weights": "w.pt"}
    )
    assert config.model == f"{tmp_path / 'mynet.py'}:build"
    assert config.data == f"npz:{tmp_path / 'mine.npz'}?seed=3"
    assert config.weights == tmp_path / "w.pt"
    Path("hard").mkdir()
    assert load_config(None, {"data": "contours:hard"}).data == "contours:hard"


@pytest.mark.parametrize(
    "options",
    [{"data": "npz:gone.npz"}, {"weights": "gone.pt"}, {"data": "imagefolder:gone?size=32"}],
)
def test_files_that_are_not_there_are_told_before_anything_is_done(options: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"gone.* is not there"):
        check_names(load_config(None, options))


@pytest.mark.parametrize(
    ("keep", "what"),
    [
        ("stem", "give a layer and the share"),
        ("stem=2", "give a layer and the share"),
        ("=0.5", "give a layer and the share"),
    ],
)
def test_a_share_that_is_none_is_refused_with_the_options(keep: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_config(None, {"keep": keep})
    assert load_config(None, {"keep": ["a=0.5", "b.c=1"], "freeze": "stem"}).kept_shares == {
        "a": 0.5,
        "b.c": 1.0,
    }
