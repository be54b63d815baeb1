"""The dense network is fine-tuned as its pruned ones are, and the floor means the better one."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from cprune_rl.accuracy.trainer import ImageTrainer
from cprune_rl.accuracy.training import TrainSettings, evaluate, recalibrate, train
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.dense_networks import DenseNetworks, finetune_dense
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.groups import find_groups
from tests.doubles.images import patch_data
from tests.doubles.networks import small_network

DATA = patch_data("patches", (256, 200, 64, 64))
SETTINGS = TrainSettings(n_steps=30, learning_rate=0.05, warmup=0.1, distillation=0.1)


@pytest.fixture(scope="module")
def trained_model() -> TrainedModel:
    """A network that was not trained, so that a fine-tune gains much."""
    model = small_network().eval()
    example = torch.zeros(1, 3, 16, 16)
    return TrainedModel(
        name="small",
        trainer=ImageTrainer(DATA),
        model=model,
        example=example,
        coupled=find_groups(model, example),
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def networks(given: float, finetuned: float, is_from_given: bool) -> DenseNetworks:
    return DenseNetworks(
        given=nn.Linear(1, 1),
        finetuned=nn.Linear(1, 1),
        given_accuracy=given,
        finetuned_accuracy=finetuned,
        is_from_given=is_from_given,
        train_s=1.0,
    )


@pytest.mark.parametrize(
    ("given", "finetuned", "is_from_given", "counted_from", "better"),
    [
        (0.81, 0.84, False, "finetuned", "finetuned"),
        (0.84, 0.81, False, "given", "given"),
        (0.84, 0.84, False, "given", "given"),
        (0.81, 0.84, True, "given", "finetuned"),
    ],
)
def test_the_floor_is_counted_from_the_better_one_or_from_the_given_one(
    given: float, finetuned: float, is_from_given: bool, counted_from: str, better: str
) -> None:
    dense = networks(given, finetuned, is_from_given)
    assert dense.counted_from == counted_from
    assert dense.better == better
    assert dense.accuracy == max(given, finetuned), "losses are counted from the better one"
    reference, other = dense.given, dense.finetuned
    if counted_from == "finetuned":
        reference, other = other, reference
    assert dense.reference is reference
    assert dense.other is other
    assert dense.reference_accuracy == (given if counted_from == "given" else finetuned)


def test_it_is_trained_as_long_and_as_a_pruned_one_is(trained_model: TrainedModel) -> None:
    dense = finetune_dense(trained_model, SETTINGS, False, 0.0, ProgressLog())
    expected = copy.deepcopy(trained_model.model)
    recalibrate(expected, DATA.train)
    train(expected, DATA, SETTINGS, teacher=trained_model.model)
    assert network_hash(dense.finetuned) == network_hash(expected)
    assert dense.given is trained_model.model
    assert dense.given_accuracy == evaluate(trained_model.model, DATA.search)
    assert dense.finetuned_accuracy == evaluate(expected, DATA.search)


def test_it_is_trained_once_and_charged_to_the_run_that_trained_it(
    trained_model: TrainedModel,
) -> None:
    began = time.time()
    first = finetune_dense(trained_model, SETTINGS, False, began, ProgressLog())
    assert first.train_s > 0
    resumed = finetune_dense(trained_model, SETTINGS, False, began, ProgressLog())
    assert resumed.train_s == first.train_s, "a run that goes on is still charged"
    later = finetune_dense(trained_model, SETTINGS, False, time.time() + 1, ProgressLog())
    assert later.train_s == 0.0
    longer = dataclasses.replace(SETTINGS, n_steps=31)
    assert finetune_dense(trained_model, longer, False, began, ProgressLog()).train_s > 0


@pytest.mark.parametrize("is_from_given", [False, True])
def test_a_network_that_gains_much_is_told_of_in_one_line(
    trained_model: TrainedModel, is_from_given: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = finetune_dense(trained_model, SETTINGS, is_from_given, 0.0, ProgressLog())
    gain = dense.finetuned_accuracy - dense.given_accuracy
    assert gain > 0.2
    told = " ".join(capfd.readouterr().err.split())
    assert f"The fine-tune gains {100 * gain:.1f} points on the dense network" in told
    assert "train it further and give it by --weights" in told
    assert ("leave it out" in told) == is_from_given


def test_a_network_that_gives_the_labels_is_not_trained_on_them(
    trained_model: TrainedModel, tmp_path: Path
) -> None:
    agreeing = dataclasses.replace(DATA, is_agreement=True)
    own = dataclasses.replace(trained_model, trainer=ImageTrainer(agreeing))
    dense = finetune_dense(own, SETTINGS, False, 0.0, ProgressLog())
    assert (dense.finetuned, dense.other, dense.train_s) == (None, None, 0.0)
    assert dense.reference is trained_model.model
    assert dense.counted_from == dense.better == "given"
    assert dense.accuracy == dense.reference_accuracy == trained_model.dense_accuracy
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_network_that_gains_nothing_is_not_told_to_be_trained(
    trained_model: TrainedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    still = dataclasses.replace(SETTINGS, n_steps=1, learning_rate=1e-9, weight_decay=0.0)
    finetune_dense(trained_model, still, False, 0.0, ProgressLog())
    told = " ".join(capfd.readouterr().err.split())
    assert "After the fine-tune of 1 steps" in told
    assert "train it further" not in told
