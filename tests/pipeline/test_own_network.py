"""What a user brings: a network in a file, its weights, images of one's own, or the files of
CIFAR-10.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cprune_rl
from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.data.generated import draw_contours
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.cli import app
from cprune_rl.core.result import Result
from cprune_rl.errors import ConfigError
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.validation.run import validate_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]  # whole runs, beside other tests
SMALL = Effort(
    base_steps=20,
    finetune_steps=20,
    oracle_steps=2,
    supernet_steps=4,
    proof_plans=5,
    tuning=EFFORTS["fast"].tuning,
    sweep=EFFORTS["fast"].sweep,
    calibration=(0.75, 0.5),
    total_timesteps=2048,
    timing_rounds=5,
)
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
README_CODE = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
README_COMMAND = re.search(r"^\$ cprune-rl (prune --model mynet.*)$", README, re.MULTILINE)
BRIEFLY_TRAINED = 0.05  # 150 steps teach a network little
SMALLER = {"effort": "fast", "storage": "sqlite:///costs.db"}


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
        inner = torch.relu(self.norm1(self.conv1(x)))
        return nn.functional.silu(self.norm2(self.conv2(inner)) + self.skip(x))


def build(n_classes):
    body = [nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), Block(12, 16), Block(16, 24)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(24, n_classes)]
    return nn.Sequential(*body, *head)
"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small budgets, and a user cache of the test's own."""
    monkeypatch.setitem(EFFORTS, "fast", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*options: str) -> None:
    done = CliRunner().invoke(app, ["train", *options, "--effort", "fast"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What README tells a reader to write who has no network at hand."""
    folder = tmp_path_factory.mktemp("own")
    script = ROOT / "examples" / "make_own_network.py"
    command = [sys.executable, str(script), "--images", "2400", "--steps", "150"]
    subprocess.run(command, check=True, cwd=folder)
    return folder


def check_run(folder: Path, least_accuracy: float = 0.5) -> Result:
    checks = list(validate_run(folder))
    assert [
        c for c in checks if c.passed is False and not c.found.endswith(" now")
    ] == []  # how fast it is at another hour is not for a test to say
    result = Result.read(folder / "result.json")
    low, high = result.dense.accuracy_test_ci
    assert low < result.dense.accuracy_test <= high
    assert result.dense.accuracy_test > least_accuracy
    assert result.main.gate["passed"]
    return result


def test_the_command_of_readme_prunes_a_network_of_ones_own(
    own_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(own_files)
    assert README_COMMAND is not None
    words = README_COMMAND.group(1).replace("--floor -0.01", "--floor -0.3").split()
    smaller = [f"--{name}={value}" for name, value in SMALLER.items()]
    done = CliRunner().invoke(app, [*words, *smaller, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    check_run(tmp_path / "run", BRIEFLY_TRAINED)


def test_the_python_of_readme_prunes_a_network_of_ones_own(
    own_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(own_files)
    monkeypatch.syspath_prepend(str(own_files))
    (code,) = [text for text in README_CODE if "cprune_rl.prune(" in text]
    more = "".join(f", {name}={value!r}" for name, value in SMALLER.items())
    out = tmp_path / "run"
    words = f'floor=-0.3, device="local"{more}, out={str(out)!r})'
    assert 'floor=-0.01, device="local")' in code
    exec(code.replace('floor=-0.01, device="local")', words), {})
    result = check_run(out, BRIEFLY_TRAINED)
    assert result.model == "object:Sequential"
    assert f"{result.main.speedup}" in capsys.readouterr().out


def test_a_network_and_grey_images_of_ones_own_go_the_whole_way() -> None:
    """A file with a network, its weights as a checkpoint, grey images that are not square:

    the label is which rows are bright.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 120, (2400, 1, 20, 16), np.uint8), np.arange(2400) % 10
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 120
    np.savez("mine.npz", x=images, y=labels)
    Path("mynet.py").write_text(NETWORK)
    model = build_model("mynet.py:build", 10)
    train(model, load_data("npz:mine.npz"), TrainSettings(n_steps=200))
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, "w.pt")
    cprune_rl.prune(
        model="mynet.py:build",
        weights="w.pt",
        data="npz:mine.npz",
        floor=-0.3,
        effort="fast",
        storage="sqlite:///costs.db",
        out="run",
    )
    check_run(Path("run"))


def cifar10(folder: Path, n: int) -> None:
    """The published layout of the Python version, with other pictures."""
    folder.mkdir(parents=True)
    for at, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        split = draw_contours(n, 10 + at)
        batch = {
            b"batch_label": name.encode(),
            b"labels": split.labels.tolist(),
            b"data": split.images.reshape(n, -1),
            b"filenames": [b"x.png"] * n,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("oracle", ["finetune", "supernet"])
def test_cifar10s_files_go_the_whole_way_and_a_second_search_trains_nothing(oracle: str) -> None:
    cifar10(Path("images/cifar-10-batches-py"), 400)
    options = [
        "--data",
        "cifar10:images",
        "--model",
        "resnet8",
        "--device",
        "recorded:resnet8",
        "--floor",
        "-0.3",
        "--oracle",
        oracle,
        "--storage",
        "sqlite:///costs.db",
    ]
    for out in ("first", "second"):
        run(*options, "--out", out)
    first, second = (Result.read(Path(out) / "result.json") for out in ("first", "second"))
    assert all(c.passed is not False for c in validate_run(Path("first")))
    assert first.main.cost["accuracy_evaluations"] > 0
    assert [second.main.cost[name] for name in ("accuracy_evaluations", "train_s")] == [0, 0]
    assert [m.pruned.accuracy_test for m in (first.main, *first.rivals)] == [
        m.pruned.accuracy_test for m in (second.main, *second.rivals)
    ]


def test_a_folder_is_free_again_where_an_option_was_wrong() -> None:
    done = CliRunner().invoke(
        app,
        [
            "train",
            "--device",
            "recorded:resnet8",
            "--freeze",
            "*.bn1",
            "--storage",
            "sqlite:///costs.db",
            "--out",
            "run",
        ],
    )
    assert isinstance(done.exception, ConfigError)
    assert not Path("run").exists()
