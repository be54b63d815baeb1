"""What a user brings: a network in a file, its weights, images of one's own, or the files of CIFAR-10."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.data.contours import draw_contours
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.cli import app
from cprune_rl.job import config
from cprune_rl.job.validate import validate_run
from cprune_rl.pruning.models import build_model
from cprune_rl.result import Result

pytestmark = pytest.mark.slow
SMALL = config.Budgets(base_steps=20, finetune_steps=5, oracle_steps=1, supernet_steps=4, proof_plans=5, calibration=(0.75, 0.5), total_timesteps=2048, timing_rounds=5)
NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.norm2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1, 2)

    def forward(self, x):
        return nn.functional.silu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + self.skip(x))


def build(n_classes):
    return nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), Block(12, 16), Block(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(24, n_classes))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, its trained weights, and grey images that are not square."""
    images, labels = draw_contours(2400, 1)
    np.savez(tmp_path / "mine.npz", x=images.mean(1, keepdims=True).astype(np.uint8)[:, :, 4:28], y=labels)
    (tmp_path / "mynet.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    model = build_model("mynet.py:build", 10)
    train(model, load_data("npz:mine.npz"), TrainSettings(250))
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, "w.pt")
    return tmp_path


def test_a_network_and_images_of_ones_own_go_the_whole_way(mine: Path) -> None:
    options = ["--model", "mynet.py:build", "--weights", "w.pt", "--data", "npz:mine.npz", "--floor", "-0.05", "--fast", "--out", "run"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(mine / "cache")}
    done = subprocess.run([sys.executable, "-m", "cprune_rl.cli", "train", *options], capture_output=True, text=True, cwd=mine, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "The dense network's accuracy is" in done.stderr
    checks = list(validate_run(mine / "run"))
    assert all(c.passed is not False for c in checks), checks
    result = Result.read(mine / "run" / "result.json")
    low, high = result.dense.accuracy_test_ci
    assert low < result.dense.accuracy_test < high
    assert result.dense.accuracy_test > 0.3


def cifar10(folder: Path, n: int) -> None:
    """The published layout of the Python version, with other pictures."""
    folder.mkdir(parents=True)
    for at, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        images, labels = draw_contours(n, 10 + at)
        batch = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": images.reshape(n, -1), b"filenames": [b"x.png"] * n}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("oracle", ["finetune", "supernet"])
def test_cifar10s_files_go_the_whole_way_and_a_second_search_trains_nothing(oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10(tmp_path / "images" / "cifar-10-batches-py", 400)
    monkeypatch.setattr(config, "FAST", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--data", f"cifar10:{tmp_path / 'images'}", "--model", "resnet8", "--device", "recorded:resnet8", "--floor", "-0.3", "--oracle", oracle, "--fast"]
    results = []
    for run in ("first", "second"):
        done = CliRunner().invoke(app, ["train", *options, "--storage", f"sqlite:///{tmp_path}/costs.db", "--out", str(tmp_path / run)])
        assert done.exit_code == 0, done.output
        results.append(Result.read(tmp_path / run / "result.json"))
    assert all(c.passed is not False for c in validate_run(tmp_path / "first"))
    assert results[0].main.cost["accuracy_evaluations"] > 0
    assert [results[1].main.cost[name] for name in ("accuracy_evaluations", "train_s")] == [0, 0]
    assert [m.pruned.accuracy_test for m in (results[0].main, *results[0].rivals)] == [m.pruned.accuracy_test for m in (results[1].main, *results[1].rivals)]


def test_a_folder_is_free_again_where_an_option_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "run"
    options = ["--data", "digits", "--model", "resnet8", "--device", "recorded:resnet8", "--storage", f"sqlite:///{tmp_path}/costs.db", "--out", str(out)]
    done = CliRunner().invoke(app, ["train", *options])
    assert done.exit_code != 0
    assert not out.exists()
