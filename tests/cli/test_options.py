"""Options: panels, defaults, old spellings, completion."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cprune_rl.accuracy.data.registry import DATA_SETS
from cprune_rl.agents.registry import METHODS
from cprune_rl.cli import app
from cprune_rl.cli.completion import COMPLETIONS, DATA, EXPORTS
from cprune_rl.cli.completion import IMPORTANCES as COMPLETED_IMPORTANCES
from cprune_rl.cli.completion import MODELS as COMPLETED_MODELS
from cprune_rl.errors import ConfigError
from cprune_rl.models.export_formats import EXPORT_FORMATS
from cprune_rl.models.zoo import MODELS
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.described_option import PANELS
from cprune_rl.pipeline.efforts import EFFORTS
from cprune_rl.pipeline.old_options import OldOptionWarning, translate
from cprune_rl.pruning.importance import IMPORTANCES

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


def help_of(*command: str) -> str:
    done = CliRunner().invoke(app, [*command, "--help"], env=WIDE)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", ["train", "prune"])
def test_options_stand_in_six_panels_each_with_its_default(command: str) -> None:
    text = help_of(command)
    assert [panel for panel in PANELS if panel not in text] == []
    assert len(PANELS) == 6
    shown = " ".join(text.split())
    assert shown.count("Default: ") == len(RunConfig.model_fields) + 2  # --config and --resume


def test_old_spellings_are_not_shown() -> None:
    text = help_of("train")
    assert [old for old in ("--fast", "--front", "--rivals", "--max-trials") if old in text] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"fast": True}, {"effort": "fast"}),
        ({"front": "-0.01,-0.02"}, {"floor": "-0.01,-0.02"}),
        ({"method": "greedy"}, {"methods": ["cprune"]}),
        ({"rival": True}, {"methods": ["agent", "cprune"]}),
        ({"rivals": "mdp,netadapt"}, {"methods": ["agent", "mdp", "netadapt"]}),
        ({"rivals": "mdp", "rival": True}, {"methods": ["agent", "cprune", "mdp"]}),
        ({"schemes": "both"}, {"change": "channels,schemes"}),
        ({"schemes": "block", "mapping": "rule"}, {"change": "schemes", "choose": "rule"}),
        ({"mapping_policy": "x"}, {"scheme_policy": "x"}),
        ({"max_trials": 5, "max_minutes": 2.5}, {"budget": "trials=5,minutes=2.5"}),
        ({"no_measure": True}, {"predict": "always"}),
    ],
)
def test_an_old_spelling_is_accepted_and_names_the_new_one(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    with pytest.warns(OldOptionWarning, match="--"):
        assert translate(old) == new


def test_an_option_in_both_spellings_is_an_error() -> None:
    with pytest.warns(OldOptionWarning), pytest.raises(ConfigError, match="--rivals"):
        translate({"methods": "mdp", "rivals": "halp"})


@pytest.mark.parametrize(
    ("old", "new"),
    [({"front": "-0.01"}, {"floor": "-0.02"}), ({"fast": True}, {"effort": "light"})],
)
def test_a_flag_in_both_spellings_is_an_error_and_overrides_a_file(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="is given in an old spelling too"):
        load_config(None, {**old, **new})
    file = tmp_path / "options.yaml"
    for in_file, flags in ((old, new), (new, old)):
        file.write_text(yaml.safe_dump(in_file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OldOptionWarning)
            assert load_config(file, flags) == load_config(None, flags)


def test_a_warning_of_an_old_flag_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cprune_rl.cli", "prune", "--max-trials", "5"]
    done = subprocess.run(
        [*command, "--model", "no-such-net", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.strip().splitlines()
    assert lines[0] == "warning: --max-trials is an old spelling: use --budget trials=N"
    assert lines[1].startswith("error: ")
    assert len(lines) == 2


def test_the_options_of_a_run_folder_of_before_are_read_quietly() -> None:
    kept = {"floor": -0.01, "front": [], "fast": True, "effort": "full", "method": "agent"}
    kept |= {"rival": True, "rivals": ["mdp"], "schemes": "channel", "mapping": "search"}
    kept |= {"max_trials": None, "no_measure": False, "mapping_policy": None}
    config = RunConfig(**translate(kept, is_quiet=True))
    assert config.effort == "fast"
    assert config.methods == ("agent", "cprune", "mdp")
    assert config.floor == (-0.01,)


def test_train_runs_cprune_beside_the_agent_and_a_front_does_not() -> None:
    assert load_config(None, {}, beside=("cprune",)).methods == ("agent", "cprune")
    assert load_config(None, {}).own_method == "agent"
    assert load_config(None, {}).rivals == ()
    front = load_config(None, {"floor": "-0.01,-0.02"}, beside=("cprune",))
    assert front.own_method == "agent"
    assert front.rivals == ()
    both = load_config(None, {"change": "channels,schemes"}, beside=("cprune",))
    assert both.methods == ("channels-then-schemes", "cprune", "agent")


def test_the_shell_completes_what_there_is() -> None:
    assert set(COMPLETED_MODELS) == set(MODELS)
    assert set(EXPORTS) == set(EXPORT_FORMATS)
    assert {name.rstrip(":") for name in DATA} == set(DATA_SETS)
    assert set(COMPLETED_IMPORTANCES) == set(IMPORTANCES)
    assert COMPLETIONS["methods"]("") == [n for n, m in METHODS.items() if m.is_in_runs]
    assert COMPLETIONS["efforts"]("") == list(EFFORTS)
    assert COMPLETIONS["methods"]("agent,md") == ["agent,mdp"]


def test_shell_completion_works() -> None:
    words = "cprune-rl prune --effort l"
    asked = {
        **os.environ,
        "_CPRUNE_RL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": "3",
    }
    program = str(Path(sys.executable).with_name("cprune-rl"))
    done = subprocess.run([program], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["light"], done.stderr
