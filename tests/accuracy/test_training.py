"""Training, evaluation and batch-norm statistics, the same from one seed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cprune_rl.accuracy import training
from cprune_rl.accuracy.data import Split
from cprune_rl.accuracy.training import (
    TrainSettings,
    accumulate_gradients,
    correct_predictions,
    evaluate,
    fast_depthwise_strides,
    on_device,
    recalibrate,
    train,
    train_device,
)
from cprune_rl.errors import ConfigError
from tests.doubles.images import contours_data, image_data
from tests.doubles.networks import small_network
from tests.doubles.side_heads import FORMS, SideHeaded

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("height", "kernel", "stride", "padding"),
    [(16, 3, 2, 1), (15, 3, 2, 1), (16, 5, (2, 3), 2), (9, 3, 3, 0)],
)
def test_depthwise_strides_are_taken_after_the_sums_and_nothing_else_changes(
    height: int, kernel: int, stride: int | tuple[int, int], padding: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding, groups=8)
    dense = nn.Conv2d(8, 4, 3, 2)
    images = torch.randn(2, 8, height, height)
    model = nn.Sequential(layer, dense)
    own_stride = layer.stride

    def output_and_gradient() -> list[torch.Tensor]:
        model.zero_grad()
        output = layer(images)
        output.square().sum().backward()
        assert layer.weight.grad is not None
        return [output.detach(), layer.weight.grad.clone()]

    expected = output_and_gradient()
    with fast_depthwise_strides(model, CPU, bf16=True):
        assert layer.stride == (1, 1)
        assert dense.stride == (2, 2)
        torch.testing.assert_close(output_and_gradient(), expected)
    assert layer.stride == own_stride
    assert not layer._forward_hooks
    with fast_depthwise_strides(model, CPU, bf16=False):
        assert layer.stride == own_stride, "float32 has fast gradients of its own"


def test_a_layer_of_a_class_of_its_own_keeps_its_stride() -> None:
    class Same(nn.Conv2d):
        """Reads its stride to pad, as TensorFlow's layers do."""

    layer = Same(8, 8, 3, 2, groups=8)
    with fast_depthwise_strides(layer, CPU, bf16=True):
        assert layer.stride == (2, 2)


def test_training_learns_and_is_the_same_from_one_seed() -> None:
    data = contours_data()
    models = [small_network(), small_network()]
    losses: list[list[float]] = [[], []]
    for model, of_model in zip(models, losses, strict=True):
        settings = TrainSettings(n_steps=80, batch_size=32, bf16=False)
        train(model, data, settings, on_step=lambda _, loss, into=of_model: into.append(loss))
    assert evaluate(models[0], data.train) > 0.25, "chance is 0.1"
    assert losses[0] == losses[1]
    assert len(losses[0]) == 80
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), atol=0, rtol=0)


def test_every_image_is_shown_once_before_any_is_shown_again() -> None:
    shown: list[int] = []

    class Recording(nn.Module):
        """Remembers the first pixel of every image, which says which one it is."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:  # not while its memory format is tried
                shown.extend((x[:, 0, 0, 0] * 64).round().int().tolist())
            return self.fc(x.mean((1, 2, 3))[:, None])

    images = np.zeros((64, 3, 8, 8), np.uint8)
    images[:, 0, 0, 0] = np.arange(64) * 4
    data = image_data("pixels", [Split(images=images, labels=np.arange(64) % 10)] * 4)
    train(Recording(), data, TrainSettings(n_steps=8, batch_size=16, bf16=False))
    first = shown[:64]
    second = shown[64:]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 64
    assert first != second, "in another order"


def test_a_teacher_draws_the_answers_to_its_own() -> None:
    data = contours_data()
    teacher = small_network()
    train(teacher, data, TrainSettings(n_steps=60, batch_size=32, bf16=False))
    x = data.test.batch(slice(None))

    def distance(distillation: float, teacher_in_training: nn.Module | None) -> float:
        torch.manual_seed(1)
        student = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        settings = TrainSettings(n_steps=200, batch_size=32, bf16=False, distillation=distillation)
        train(student, data, settings, teacher=teacher_in_training)
        with torch.no_grad():
            answers = student(x).log_softmax(1)
            wanted = teacher(x).softmax(1)
        return float(nn.functional.kl_div(answers, wanted, reduction="batchmean"))

    from_labels = distance(0.0, teacher)
    assert distance(0.9, teacher) < 0.8 * from_labels
    assert distance(0.9, None) == from_labels, (
        "without a teacher, or with no share, the labels alone"
    )


def test_gradients_are_filled_in_and_nothing_else_changes() -> None:
    data = contours_data()
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    accumulate_gradients(model, data, n_images=100)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_recalibration_sets_the_statistics_and_nothing_else() -> None:
    data = contours_data()
    model = small_network()
    before = [p.clone() for p in model.parameters()]
    recalibrate(model, data.train)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model[1].running_mean.abs().sum() > 0
    assert model[1].momentum == 0.1


def test_a_dropout_is_drawn_by_the_seed_and_not_at_all_for_statistics() -> None:
    data = contours_data()
    model = nn.Sequential(small_network(), nn.Dropout(0.5), nn.BatchNorm1d(10))
    recalibrate(model, data.train)
    with torch.no_grad():
        logits = model[0](data.train.batch(slice(None)))
    torch.testing.assert_close(model[2].running_mean, logits.mean(0), atol=1e-3, rtol=1e-3)
    trained = []
    for n_draws in (1, 2):
        torch.rand(n_draws)  # what ran before
        trained.append(copy.deepcopy(model))
        train(trained[-1], data, TrainSettings(n_steps=3))
    torch.testing.assert_close(trained[0].state_dict(), trained[1].state_dict(), atol=0, rtol=0)


def test_large_images_come_in_small_batches() -> None:
    images = np.zeros((70, 1, 128, 128), np.uint8)
    split = Split(images=images, labels=np.zeros(70, np.int64))
    sizes = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return x.mean((2, 3))

    evaluate(Counting(), split)
    assert sum(sizes[1:]) == 70, "after two images that show whether channels can be last"
    assert max(sizes) == 500 * 32 * 32 // 128**2


def test_the_first_guesses_count_where_the_split_says_so() -> None:
    data = contours_data()
    model = small_network().eval()
    top = data.with_top(3)
    assert evaluate(model, top.test) > evaluate(model, data.test)
    assert top.fingerprint != data.fingerprint
    with torch.no_grad():
        logits = model(data.test.batch(slice(None)))
    of_label = logits.gather(1, data.test.targets[:, None])
    is_among_three = (logits > of_label).sum(1) < 3
    assert np.array_equal(correct_predictions(model, top.test), is_among_three.numpy())
    with pytest.raises(ConfigError, match="give 1 to 9"):
        data.with_top(10)


def test_predictions_do_not_depend_on_the_batch() -> None:
    data = contours_data()
    model = small_network().eval()
    with torch.no_grad():
        guesses = model(data.test.batch(slice(None))).argmax(1)
    expected = (guesses == data.test.targets).numpy()
    assert np.array_equal(correct_predictions(model, data.test), expected)


@pytest.mark.parametrize("name", ["meta", "tpu", "cuda:99"])
def test_a_device_that_networks_cannot_be_trained_on_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        train_device(name)
    assert train_device("cpu") == CPU


@pytest.mark.parametrize("padding", [0, "valid"])
def test_a_strided_1x1_convolution_is_trained_without_its_stride(
    padding: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OneDNN's own gradients of such a layer damage memory where there is no bfloat16."""
    monkeypatch.setattr(training, "_uses_bf16", lambda *_: False)
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 1, (2, 3), padding)  # type: ignore[arg-type]
    images = torch.randn(2, 8, 9, 10)
    expected = layer(images)
    seen = []
    layer.register_forward_hook(lambda layer, inputs, _: seen.append((layer.stride, inputs)))
    with on_device(layer, CPU):
        output = layer(images)
    assert seen[0][0] == (1, 1)
    assert seen[0][1][0].shape == (2, 8, 5, 4)
    torch.testing.assert_close(output, expected)
    assert layer.stride == (2, 3)
    torch.testing.assert_close(layer(images), expected)


def test_narrow_strided_shortcuts_train_many_steps() -> None:
    layer = nn.Sequential(nn.Conv2d(6, 12, 1, 2, bias=False)).to(memory_format=torch.channels_last)
    with on_device(layer, CPU):
        for _ in range(10):
            images = torch.randn(64, 6, 32, 32).contiguous(memory_format=torch.channels_last)
            layer(images.requires_grad_()).square().mean().backward()
    assert layer[0].weight.grad is not None
    assert bool(layer[0].weight.grad.isfinite().all())


def test_side_heads_learn_with_three_tenths_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {}
    for weight in (0.0, training.SIDE_WEIGHT):
        monkeypatch.setattr(training, "SIDE_WEIGHT", weight)
        torch.manual_seed(0)
        model = SideHeaded("a tuple")
        first: list[float] = []
        before = model.side_fc.weight.detach().clone()
        settings = TrainSettings(n_steps=2, batch_size=16, bf16=False, weight_decay=0.0)
        train(model, contours_data(64), settings, on_step=lambda _, loss, to=first: to.append(loss))
        losses[weight] = first[0]
        assert torch.equal(model.side_fc.weight, before) == (weight == 0)
    assert training.SIDE_WEIGHT == 0.3
    side = (losses[0.3] - losses[0.0]) / 0.3
    assert side == pytest.approx(np.log(10), rel=0.2)  # of a head that has learnt nothing


@pytest.mark.parametrize("form", FORMS)
def test_a_network_with_side_heads_is_trained_in_every_form(form: str) -> None:
    torch.manual_seed(0)
    model = SideHeaded(form)
    teacher = small_network()
    settings = TrainSettings(n_steps=2, batch_size=16, distillation=0.5)
    train(model, contours_data(64), settings, teacher=teacher)
    assert not model.training
    assert 0 <= evaluate(model, contours_data(64).search) <= 1
