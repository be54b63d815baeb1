"""The examples run, with few steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# what they print in the end, and with which options
RUNS = {
    "environment.py": ([], "speed-up 3."),
    "maskable_ppo.py": (["--timesteps", "512"], "log speed-up"),
    "ppo_single_file.py": (
        ["--timesteps", "256", "--num-envs", "4", "--num-steps", "32", "--tensorboard", "events"],
        "best speed-up",
    ),
}
# These run a pruned network, or write one's own: whole runs have tests of their own.
OF_RUNS = {"run_lib.py", "run_pt2.py", "make_own_network.py"}


def test_every_example_is_run_by_a_test() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {*RUNS, *OF_RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    options, expected = RUNS[name]
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert expected in result.stdout
    assert ("--tensorboard" not in options) or list((tmp_path / "events").iterdir())
