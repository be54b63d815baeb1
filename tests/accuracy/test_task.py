"""Loss and metric of one's own: what is asked of them, and what they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cprune_rl.accuracy.data import ImageData, load_data
from cprune_rl.accuracy.labels import check_task
from cprune_rl.accuracy.supernet import PlanBounds, Supernet, SupernetSettings, train_supernet
from cprune_rl.accuracy.task import Classification, load_task
from cprune_rl.accuracy.training import (
    TrainSettings,
    accumulate_gradients,
    correct_predictions,
    evaluate,
    train,
)
from cprune_rl.errors import ConfigError, DataError

MULTI_LABEL = """
import torch
from torch.nn import functional


class MultiLabel:
    \"\"\"Several labels for each image; an image is right where all of them are.\"\"\"

    def loss(self, output, target):
        return functional.binary_cross_entropy_with_logits(output, target)

    def correct(self, output, target):
        return ((output > 0) == (target > 0.5)).all(1)

    def distillation_loss(self, output, teacher_output):
        return functional.binary_cross_entropy_with_logits(output, teacher_output.sigmoid())

    def target(self, output):
        return (output > 0).float()
"""


def write_task(folder: Path, code: str = MULTI_LABEL) -> str:
    (folder / "mytask.py").write_text(code)
    return f"{folder / 'mytask.py'}:MultiLabel"


def write_images(path: Path, n: int = 400) -> None:
    """Grey images of three patches; each patch that is bright is a label."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (n, 3), np.uint8)
    x = rng.integers(0, 60, (n, 1, 6, 6), np.uint8)
    x += 150 * y.repeat(2, 1)[:, None, :, None]
    np.savez(path, x=x, y=y)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    """Images with three labels each."""
    write_images(tmp_path / "a.npz")
    return load_data(f"npz:{tmp_path / 'a.npz'}", task=load_task(write_task(tmp_path)))


def test_several_labels_of_one_image_are_learnt_and_judged(data: ImageData) -> None:
    assert data.n_classes == 3
    assert data.train.targets.dtype == torch.float32
    assert sum(len(split) for split in data.splits.values()) == 400
    model = network()
    check_task(model, data)
    train(model, data, TrainSettings(n_steps=200, bf16=False))
    assert evaluate(model, data.test) > 0.9, "chance is an eighth"
    with torch.no_grad():
        output = model(data.test.batch(slice(None)))
    expected = ((output > 0).numpy() == data.test.labels).all(1)
    np.testing.assert_array_equal(correct_predictions(model, data.test), expected)


def test_a_task_is_part_of_the_key_of_what_is_cached(data: ImageData, tmp_path: Path) -> None:
    other = write_task(tmp_path, MULTI_LABEL.replace("output > 0", "output > 0.5"))
    assert data.with_task(load_task(other)).fingerprint != data.fingerprint
    assert data.with_task(Classification()).fingerprint != data.fingerprint


def test_distillation_is_the_tasks_own_or_none(data: ImageData, tmp_path: Path) -> None:
    def trained(code: str, share: float) -> torch.Tensor:
        model = network()
        task = load_task(write_task(tmp_path, code))
        settings = TrainSettings(n_steps=3, bf16=False, distillation=share)
        train(model, data.with_task(task), settings, teacher=network())
        return model[1].weight.detach()

    without = MULTI_LABEL.replace("distillation_loss", "other")
    torch.testing.assert_close(trained(without, 0.5), trained(without, 0.0), rtol=0, atol=0)
    assert not torch.equal(trained(MULTI_LABEL, 0.5), trained(MULTI_LABEL, 0.0))


def test_gradients_for_the_importance_are_those_of_the_task(data: ImageData) -> None:
    model = network()
    accumulate_gradients(model, data, n_images=128)
    found = model[1].weight.grad
    images, target = data.train.batch(slice(0, 128)), data.train.targets[:128]
    model.zero_grad()
    functional.binary_cross_entropy_with_logits(model(images), target).backward()
    torch.testing.assert_close(found, model[1].weight.grad)


@pytest.mark.parametrize("has_distillation", [True, False])
def test_a_supernet_is_trained_by_the_task(
    data: ImageData, tmp_path: Path, has_distillation: bool
) -> None:
    code = MULTI_LABEL if has_distillation else MULTI_LABEL.replace("distillation_loss", "other")
    data = data.with_task(load_task(write_task(tmp_path, code)))
    model = network()
    supernet = Supernet(model, masks=lambda _: {}, bounds=PlanBounds((4,), (1,)))
    train_supernet(supernet, data, SupernetSettings(n_steps=60))
    assert evaluate(model, data.search) > 0.5, "chance is an eighth"


def test_targets_without_a_task_say_that_they_need_one(tmp_path: Path) -> None:
    write_images(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"y is uint8 \(400, 3\).*need --task file.py:Task"):
        load_data(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("y", [np.full((60, 2), np.nan), np.full((60, 2), np.inf)])
def test_targets_that_are_not_finite_are_refused(y: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((60, 1, 4, 4), 9, np.uint8), y=y)
    with pytest.raises(DataError, match="not finite"):
        load_data(f"npz:{tmp_path / 'a.npz'}", task=load_task(write_task(tmp_path)))


def test_targets_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((60, 1, 4, 4), 9, np.uint8), y=np.ones((60, 2)))
    with pytest.raises(DataError, match="same target for every training image"):
        load_data(f"npz:{tmp_path / 'a.npz'}", task=load_task(write_task(tmp_path)))


LOSS = "return functional.binary_cross_entropy_with_logits(output, target)"
CORRECT = "return ((output > 0) == (target > 0.5)).all(1)"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            LOSS,
            LOSS.replace("target)", "target, reduction='none')"),
            r"loss gives shape \(8, 3\); it must give one number",
        ),
        (LOSS, "return 0.5", "loss gives float; it must give one number as a tensor"),
        (LOSS, "return (output * float('nan')).sum()", "loss is nan; it must be finite"),
        (LOSS, "return target.mean()", "does not depend on the output"),
        (LOSS, "return output.detach().mean()", "does not depend on the output"),
        (LOSS, "return (output - output).abs().sqrt().sum()", "gradient .* is not finite"),
        (LOSS, "return output.no_such_thing", "loss fails on .*AttributeError"),
        (CORRECT, CORRECT.replace(".all(1)", ""), r"correct has shape \(8, 3\).*one bool for each"),
        (CORRECT, CORRECT.replace("all", "float().mean"), "correct gives torch.float32"),
        (CORRECT, "return 0.7", "correct gives float"),
        (CORRECT, "return output.nothing()", "correct fails on .*AttributeError"),
    ],
)
def test_a_task_that_gives_something_else_is_told_what_to_give(
    old: str, new: str, what: str, data: ImageData, tmp_path: Path
) -> None:
    task = load_task(write_task(tmp_path, MULTI_LABEL.replace(old, new)))
    with pytest.raises(ConfigError, match=what) as caught:
        check_task(network(), data.with_task(task))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("def loss", "def lost", "has no method 'loss'"),
        ("def correct", "def right", "has no method 'correct'"),
        ("class MultiLabel", "class Other", "has no function 'MultiLabel'. It has: Other"),
        ("class MultiLabel:", "class MultiLabel:\n    def __init__(self, n): pass\n", "cannot be"),
        ("import torch\n", "import torc\n", "importing .* fails"),
    ],
)
def test_a_task_that_lacks_something_is_refused(
    old: str, new: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what):
        load_task(write_task(tmp_path, MULTI_LABEL.replace(old, new)))


def test_a_loss_that_is_lost_on_the_way_ends_the_training(data: ImageData, tmp_path: Path) -> None:
    code = MULTI_LABEL.replace(LOSS, "return (output - target).square().mean().exp().exp()")
    task = load_task(write_task(tmp_path, code))
    settings = TrainSettings(n_steps=50, learning_rate=50.0, bf16=False)
    with pytest.raises(ConfigError, match="loss is inf; it must be finite"):
        train(network(), data.with_task(task), settings)
