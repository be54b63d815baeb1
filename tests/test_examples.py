"""The examples run, with few steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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
# what their cells print
NOTEBOOKS = {
    "prune_your_network.ipynb": [
        r"<estimated speed-up [1-9]\.\d+, accuracy .* runs/object-Net",
        r"holds the floor: True",
        r"resnet8: \d of 6 groups of channels are narrower",
        r"pruned\.pt2",
        r"report\.html",
        r"OwnLoop\(name='own-.*', gate_images='own', test_images='own', is_paired=True\)",
    ],
}


def test_every_example_is_run_by_a_test() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {*RUNS, *OF_RUNS}
    assert {file.name for file in EXAMPLES.glob("*.ipynb")} == {*NOTEBOOKS}


def code_cells(name: str) -> list[dict[str, Any]]:
    """Cells of a notebook that are run, from the first to the last."""
    notebook = json.loads((EXAMPLES / name).read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["language"] == "python"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_keeps_nothing_of_the_machine_that_ran_it(name: str) -> None:
    cells = code_cells(name)
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_cells_of_a_notebook_run(name: str, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells(name)))
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "CPRUNE_RL_CACHE": str(tmp_path / "cache")},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    missing = [text for text in NOTEBOOKS[name] if not re.search(text, result.stdout)]
    assert missing == [], result.stdout[-2000:]


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
