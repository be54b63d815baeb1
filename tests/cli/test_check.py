"""`cprune-rl check`: one table, JSON, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.errors import ConfigError

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
NET = """
from torch import nn


def build(n_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes),
    )


def wrong():
    return nn.Conv2d(3, 8, 3)
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def check(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *options, "--device", "none"], env=WIDE)
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.exit_code, done.stdout


def test_a_table_and_json_say_the_same(net: Path) -> None:
    status, text = check("--model", f"{net}:build", "--input", "3,16,16", "--classes", "4")
    assert status == 0
    assert "4 classes" in text
    assert "goes the whole way" in text
    assert "left whole: 6: gives the network's output" in text
    status, text = check(
        "--model", f"{net}:build", "--input", "3,16,16", "--classes", "4", "--json"
    )
    report = json.loads(text)
    assert status == 0
    assert report["passes"]
    assert report["groups"] == {"0": 8, "2": 8}


def test_what_fails_gives_status_1(net: Path) -> None:
    status, text = check("--model", f"{net}:wrong", "--input", "3,16,16")
    assert status == 1
    assert "does not" in text
    assert "one image" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "3,x"], "--input 3,x: give channels, height and width"),
        (["--input", "3,0,3"], "give channels, height and width"),
        (["--input", "3,32,32", "--data", "digits"], "leave it or --data out"),
        (["--input", "3,32,32", "--labels", "teacher"], "leave it or --labels out"),
        (["--labels", "teacher", "--data", "digits"], "give its trained weights"),
        (["--classes", "4"], "--classes goes with --input"),
    ],
)
def test_options_that_contradict_are_refused(net: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("--model", f"{net}:build", *options)
