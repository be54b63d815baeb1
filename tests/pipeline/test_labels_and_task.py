"""Runs on images without labels, and on a task of the user's, from the options to the checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cprune_rl.accuracy.data.generated import draw_contours
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.cli import app
from cprune_rl.core.result import Result
from cprune_rl.errors import CPruneError
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import save_weights
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.validation.run import validate_run
from tests.doubles.images import contours_data

SMALL = Effort(
    base_steps=40,
    finetune_steps=10,
    oracle_steps=2,
    supernet_steps=4,
    proof_plans=5,
    tuning=EFFORTS["fast"].tuning,
    sweep=EFFORTS["fast"].sweep,
    calibration=(0.75, 0.5),
    total_timesteps=2048,
    timing_rounds=5,
)
TASK = """
from torch.nn import functional


class MultiLabel:
    def loss(self, output, target):
        return functional.binary_cross_entropy_with_logits(output, target)

    def correct(self, output, target):
        return target.gather(1, output.argmax(1, keepdim=True))[:, 0] > 0.5
"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small budgets, and a folder and a user cache of the test's own."""
    monkeypatch.setitem(EFFORTS, "fast", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*options: str) -> str:
    common = ["--model", "resnet8", "--device", "recorded:resnet8", "--effort", "fast"]
    done = CliRunner().invoke(app, ["prune", *common, "--methods", "cprune", *options])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return " ".join(done.output.split())


def refused(*options: str) -> str:
    done = CliRunner().invoke(app, ["prune", *options, "--out", "run"])
    assert done.exit_code != 0
    assert not Path("run").exists()
    assert isinstance(done.exception, CPruneError)
    return str(done.exception)


@pytest.mark.slow
def test_pictures_without_labels_are_judged_by_agreement_everywhere() -> None:
    pictures = draw_contours(600, 5).images
    Path("photos/more").mkdir(parents=True)
    for at, pixels in enumerate(pictures):
        place = "photos/more" if at % 3 else "photos"
        Image.fromarray(pixels.transpose(1, 2, 0)).save(f"{place}/{at}.png")
    model = build_model("resnet8", 10, seed=3)
    train(model, contours_data(512), TrainSettings(n_steps=30))
    save_weights(model, Path("w.safetensors"))
    options = ["--data", "imagefolder:photos?size=32", "--weights", "w.safetensors"]
    said = run(*options, "--labels", "teacher", "--floor", "-0.6", "--out", "run")
    assert "every accuracy of this run is agreement with it" in said
    assert "of agreement with the dense network on test images, holds" in said
    result = Result.read(Path("run/result.json"))
    assert (result.labels, result.dense.accuracy_test) == ("teacher", 1.0)
    assert result.main.gate["floor"] == pytest.approx(0.4)
    assert json.loads(Path("run/result.json").read_text())["labels"] == "teacher"
    page = Path("run/report.html").read_text()
    assert "Agreement with the dense network" in page
    assert "Test accuracy" not in page
    assert [check for check in validate_run(Path("run")) if check.passed is False] == []
    again = run(*options, "--labels", "teacher", "--floor", "-0.6,-0.7", "--out", "front")
    assert "every accuracy of this run is agreement with it" in again
    assert json.loads(Path("front/front.json").read_text())["labels"] == "teacher"
    assert [check for check in validate_run(Path("front")) if check.passed is False] == []


@pytest.mark.slow
def test_several_labels_of_each_image_go_the_whole_way() -> None:
    drawn = draw_contours(600, 5)
    targets = (
        np.eye(10, dtype=np.uint8)[drawn.labels]
        | np.eye(10, dtype=np.uint8)[(drawn.labels + 5) % 10]
    )
    np.savez("tags.npz", x=drawn.images, y=targets)
    Path("mytask.py").write_text(TASK)
    run("--data", "npz:tags.npz", "--task", "mytask.py:MultiLabel", "--floor", "-0.9", "--out", "r")
    result = Result.read(Path("r/result.json"))
    assert result.task == f"{Path.cwd() / 'mytask.py'}:MultiLabel"
    assert 0 < result.dense.accuracy_test < 1
    assert [check for check in validate_run(Path("r")) if check.passed is False] == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--labels", "teacher"], "give its trained weights, --weights FILE"),
        (["--labels", "mine"], "'given' or 'teacher'"),
        (["--task", "mytask.py:Multi"], "has no function 'Multi'"),
        (["--task", "mytask.py:MultiLabel", "--top", "2"], "leave one of them out"),
        (
            ["--task", "mytask.py:MultiLabel", "--labels", "teacher", "--weights", "mytask.py"],
            "has no method 'target'",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], what: str) -> None:
    Path("mytask.py").write_text(TASK)
    assert what in refused(*options)
