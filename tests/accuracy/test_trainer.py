"""Whoever trains and judges networks keeps one contract: this package, and a user's functions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cprune_rl.accuracy.loop_trainer import LoopTrainer, TrainingLoop
from cprune_rl.accuracy.trainer import ImageTrainer, Part, Trainer, accuracy_on, labelled_images
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.intervals import Counts
from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.models.weights import network_hash
from tests.doubles.images import patch_data
from tests.doubles.networks import small_network

DATA = patch_data("patches", (256, 200, 100, 60))
SETTINGS = TrainSettings(n_steps=25, batch_size=32, learning_rate=0.05, seed=3)
PARTS: tuple[Part, ...] = ("search", "gate", "test")


def fine_tune(model: nn.Module, steps: int) -> None:
    """A plain loop of a user's."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        at = torch.randint(len(DATA.train), (32,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(DATA.train.batch(at)), DATA.train.targets[at])
        loss.backward()
        optimizer.step()


def judge_on(part: Part) -> Callable[[nn.Module], torch.Tensor]:
    """A user's evaluation, image by image."""
    split = DATA.splits[part]

    def evaluate(model: nn.Module) -> torch.Tensor:
        return model(split.batch(slice(None))).argmax(1) == split.targets

    return evaluate


def count_on(part: Part) -> Callable[[nn.Module], tuple[Any, int]]:
    """A user's evaluation that only counts, as many do."""

    def evaluate(model: nn.Module) -> tuple[Any, int]:
        right = judge_on(part)(model)
        return right.sum(), len(right)

    return evaluate


def loop(**changes: Any) -> TrainingLoop:
    """A plain loop with images for each part."""
    given: dict[str, Any] = {
        "fine_tune": fine_tune,
        "evaluate": judge_on("search"),
        "gate": judge_on("gate"),
        "test": judge_on("test"),
    }
    return TrainingLoop(**{**given, **changes})


def by_loop(given: TrainingLoop) -> LoopTrainer:
    return LoopTrainer(
        given, DATA.train, name="arrays:0?loop=mine", loop_name="mine", model=small_network()
    )


def by_counts() -> LoopTrainer:
    counts = {"evaluate": count_on("search"), "gate": count_on("gate"), "test": count_on("test")}
    return by_loop(loop(**counts))


MAKERS: dict[str, Callable[[], Trainer]] = {
    "images": lambda: ImageTrainer(DATA),
    "loop": lambda: by_loop(loop()),
    "loop that counts": by_counts,
    "loop of one evaluation": lambda: by_loop(loop(gate=None, test=None)),
}


@pytest.fixture(params=MAKERS)
def trainer(request: pytest.FixtureRequest) -> Trainer:
    """Each kind of trainer."""
    return MAKERS[request.param]()


def test_judging_leaves_a_network_and_says_the_same_again(trainer: Trainer) -> None:
    model = small_network()
    before = network_hash(model)
    for part in PARTS:
        first = trainer.judge(model, part)
        second = trainer.judge(copy.deepcopy(model), part)
        assert len(first) == trainer.n_images[part]
        assert type(first) is type(second)
        assert first.sum() == second.sum()
        if not isinstance(first, Counts):
            assert np.array_equal(first, second)
        assert accuracy_on(trainer, model, part) == first.mean()
    assert not model.training
    assert network_hash(model) == before


def test_all_trainers_judge_alike(trainer: Trainer) -> None:
    model = small_network()
    for part in PARTS:
        judged_on = part
        if trainer.own_loop is not None and trainer.own_loop.gate_images == "search":
            judged_on = "search"
        expected = ImageTrainer(DATA).judge(model, judged_on)
        assert trainer.judge(model, part).sum() == expected.sum()


def test_training_changes_a_network_in_place_and_the_same_way_each_time(trainer: Trainer) -> None:
    trained = []
    for _ in range(2):
        model = small_network()
        before = accuracy_on(trainer, model, "search")
        steps: list[int] = []
        torch.rand(7)  # whatever was drawn before is of no matter
        trainer.train(model, SETTINGS, lambda step, _, steps=steps: steps.append(step))
        assert steps[-1] == SETTINGS.n_steps
        assert not model.training
        assert accuracy_on(trainer, model, "search") > before + 0.2
        trained.append(network_hash(model))
    assert trained[0] == trained[1]


def test_training_does_not_disturb_the_callers_generator(trainer: Trainer) -> None:
    model = small_network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.train(model, dataclasses.replace(SETTINGS, n_steps=1))
    torch.testing.assert_close(torch.rand(3), expected)


def test_recalibration_sets_statistics_alone(trainer: Trainer) -> None:
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    trainer.recalibrate(model)
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"1.running_mean", "1.running_var"} <= changed
    assert not changed - {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not model.training


def test_a_trainer_describes_its_images(trainer: Trainer) -> None:
    images = trainer.comparison_images()
    assert images.dtype == np.float32
    assert images.shape == (16, *trainer.input_shape[1:])
    assert np.array_equal(images, trainer.comparison_images())
    assert trainer.n_classes == 10
    described = trainer.describe()
    assert described["name"] == trainer.name
    assert described["fingerprint"] == trainer.fingerprint == trainer.fingerprint
    assert {part: described[f"n_{part}"] for part in PARTS} == trainer.n_images


def test_only_images_with_labels_have_gradients_and_go_to_a_supernet() -> None:
    model = small_network()
    images = ImageTrainer(DATA)
    images.accumulate_gradients(model)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert labelled_images(images, "this") is DATA
    own = by_loop(loop())
    with pytest.raises(ConfigError, match="importance='taylor' needs the loss"):
        own.accumulate_gradients(small_network())
    with pytest.raises(ConfigError, match="this needs labelled images"):
        labelled_images(own, "this")


def test_a_loop_is_named_by_its_images_and_its_name() -> None:
    first = by_loop(loop())
    other = LoopTrainer(
        loop(), DATA.train, name="arrays:0?loop=yours", loop_name="yours", model=small_network()
    )
    assert first.fingerprint == by_counts().fingerprint
    assert len({first.fingerprint, other.fingerprint, ImageTrainer(DATA).fingerprint}) == 3


@pytest.mark.parametrize(
    ("missing", "gate_images", "test_images", "n_caveats"),
    [
        ((), "own", "own", 0),
        (("test",), "own", "gate", 1),
        (("gate",), "search", "own", 1),
        (("gate", "test"), "search", "search", 2),
    ],
)
def test_images_that_decided_something_before_are_named(
    missing: tuple[str, ...], gate_images: str, test_images: str, n_caveats: int
) -> None:
    trainer = by_loop(loop(**dict.fromkeys(missing)))
    own = trainer.own_loop
    assert (own.gate_images, own.test_images) == (gate_images, test_images)
    assert own.is_paired
    assert len(own.caveats) == n_caveats
    assert trainer.warnings([-0.9], 0.05) == own.caveats
    sizes = {"search": 200, "gate": 100 if gate_images == "own" else 200}
    assert {part: trainer.n_images[part] for part in sizes} == sizes


def test_a_floor_that_counts_cannot_show_is_told_with_what_to_do() -> None:
    (by_image,) = by_loop(loop()).warnings([-0.01], 0.05)
    caveat, by_count = by_counts().warnings([-0.01], 0.05)
    assert "could not pair the networks" in caveat
    assert "may lose 2.95%" in by_image
    assert "Give one boolean for each image" in by_count
    lost = float(by_count.partition("may lose ")[2].partition("%")[0])
    assert lost > 2.95, "what is not paired is known less well"


def test_a_network_that_is_left_in_training_with_gradients_is_put_in_order() -> None:
    def leave(model: nn.Module, steps: int) -> nn.Module:
        fine_tune(model, steps)
        assert any(parameter.grad is not None for parameter in model.parameters())
        return model.train()

    model = small_network()
    by_loop(loop(fine_tune=leave)).train(model, SETTINGS)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def answer(value: Any) -> Callable[[nn.Module], Any]:
    return lambda _: value


def fail(*_: object) -> Any:
    raise ValueError("no such file\nor folder")


class Shuffling:
    """Judges in another order each time."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, model: nn.Module) -> torch.Tensor:
        right = judge_on("search")(model)
        return right[torch.randperm(len(right), generator=self.generator)]


def forget_eval(model: nn.Module) -> torch.Tensor:
    return judge_on("search")(model.train())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, r"evaluate fails: ValueError: no such file$"),
        (answer(0.91), r"evaluate gives 0\.91, and not of how many images: give one boolean"),
        (answer(None), "evaluate gives NoneType: give one boolean"),
        (answer((201, 200)), "201 right images of 200"),
        (answer((0, 0)), "0 right images of 0"),
        (answer(np.ones(5)), r"ndarray of float64 \(5,\): give one boolean"),
        (answer(torch.ones(5, 2, dtype=torch.bool)), r"Tensor of bool \(5, 2\)"),
        (answer(torch.ones(0, dtype=torch.bool)), r"Tensor of bool \(0,\)"),
        (answer([torch.ones(3), torch.ones(2)]), "list that is no array"),
        (Shuffling(), "another answer about the same network the second time"),
        (forget_eval, "evaluate changes the network: leave it in evaluation mode"),
    ],
)
def test_an_evaluation_that_cannot_be_used_is_refused_before_anything_is_trained(
    function: Callable[[nn.Module], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        by_loop(loop(evaluate=function))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [[True, False], (True, False), np.array([True, False])])
def test_two_booleans_are_no_counts(value: Any) -> None:
    own = by_loop(loop(evaluate=answer(value))).own_loop
    assert own.is_paired
    judged = by_loop(loop(evaluate=answer(value))).judge(small_network(), "search")
    assert judged.sum() == 1
    assert len(judged) == 2


def test_an_evaluation_judges_the_same_images_each_time() -> None:
    sizes = iter([200, 200, 100])
    trainer = by_loop(loop(evaluate=lambda _: (50, next(sizes))))
    with pytest.raises(ConfigError, match="a count of 100 images, and gave a count of 200"):
        trainer.judge(small_network(), "search")


def replace_a_layer(model: nn.Module, _: int) -> None:
    assert isinstance(model, nn.Sequential)
    model[5] = nn.Linear(128, 12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, "fine_tune fails: ValueError: no such file"),
        (lambda model, _: copy.deepcopy(model), "gives another network"),
        (replace_a_layer, "changes the weights' names or shapes"),
    ],
)
def test_a_fine_tune_that_cannot_be_used_is_refused(
    function: Callable[[nn.Module, int], object], message: str
) -> None:
    trainer = by_loop(loop(fine_tune=function))
    with pytest.raises(ConfigError, match=message):
        trainer.train(small_network(), SETTINGS)


def test_a_network_of_other_images_and_what_is_no_function_are_refused() -> None:
    with pytest.raises(ModelError, match="does not take images"):
        LoopTrainer(loop(), DATA.train, name="a", loop_name="a", model=nn.Conv2d(1, 4, 3))
    with pytest.raises(ConfigError, match="gate is int: give a function"):
        loop(gate=3).check()
