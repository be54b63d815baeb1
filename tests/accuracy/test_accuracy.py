"""Images, training, the oracle's calibration and the gate."""

import copy
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.accuracy.calibration import Calibration, CalibrationPoint, Calibrations
from cprune_rl.accuracy.data import Split, load_data
from cprune_rl.accuracy.data.generated import draw_contours
from cprune_rl.accuracy.final_gate import (
    GateCriterion,
    difference_interval,
    judge,
    undetectable_loss,
)
from cprune_rl.accuracy.oracle import FinetuneEvaluation, PlanOracle, RecalibrationEvaluation
from cprune_rl.accuracy.training import (
    TrainSettings,
    correct_predictions,
    evaluate,
    fast_depthwise_strides,
    recalibrate,
    train,
    train_device,
)
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import ConfigError, UnknownNameError
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.images import contours_data


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.mark.parametrize(
    ("height", "kernel", "stride", "padding"),
    [(16, 3, 2, 1), (15, 3, 2, 1), (16, 5, (2, 3), 2), (9, 3, 3, 0)],
)
def test_depthwise_strides_are_taken_after_the_sums_and_nothing_else_changes(
    height: int, kernel: int, stride: int | tuple[int, int], padding: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding, groups=8)
    dense, images = nn.Conv2d(8, 4, 3, 2), torch.randn(2, 8, height, height)
    model = nn.Sequential(layer, dense)
    asked = layer.stride

    def told() -> list[torch.Tensor]:
        model.zero_grad()
        output = layer(images)
        output.square().sum().backward()
        assert layer.weight.grad is not None
        return [output.detach(), layer.weight.grad.clone()]

    plain = told()
    with fast_depthwise_strides(model, torch.device("cpu"), bf16=True):
        assert layer.stride == (1, 1)
        assert dense.stride == (2, 2)
        torch.testing.assert_close(told(), plain)
    assert layer.stride == asked
    assert not layer._forward_hooks
    with fast_depthwise_strides(model, torch.device("cpu"), bf16=False):
        assert layer.stride == asked, "float32 has fast gradients of its own"


def test_a_layer_of_a_class_of_its_own_keeps_its_stride() -> None:
    class Same(nn.Conv2d):
        """Reads its stride to pad, as TensorFlow's layers do."""

    layer = Same(8, 8, 3, 2, groups=8)
    with fast_depthwise_strides(layer, torch.device("cpu"), bf16=True):
        assert layer.stride == (2, 2)


def test_images_are_drawn_alike_from_one_seed_and_apart_from_another() -> None:
    first = draw_contours(16, 1)
    again = draw_contours(16, 1)
    other = draw_contours(16, 2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.images != other.images).any()
    assert first.images.shape == (16, 3, 32, 32)
    assert first.images.dtype == np.uint8


def test_the_splits_of_a_data_set_share_no_image() -> None:
    for data in (load_data("digits"), contours_data()):
        seen = [
            {i.tobytes() for i in s.images} for s in (data.train, data.search, data.gate, data.test)
        ]
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(seen, 2))
    assert sum(len(s) for s in (data.train, data.search, data.gate, data.test)) == 448


def test_an_unknown_data_set_is_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'contours'\?"):
        load_data("contour")


def test_training_learns_and_is_the_same_from_one_seed() -> None:
    data = contours_data()
    models = [small_model(), small_model()]
    for model in models:
        train(model, data, TrainSettings(n_steps=80, batch_size=32, bf16=False))
    assert evaluate(models[0], data.train) > 0.25, "chance is 0.1"
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_a_teacher_draws_the_answers_to_its_own() -> None:
    data, teacher = contours_data(), small_model()
    train(teacher, data, TrainSettings(n_steps=60, batch_size=32, bf16=False))
    x = data.test.batch(slice(None))

    def distance(distillation: float, asked: nn.Module | None) -> float:
        student = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        torch.manual_seed(1)
        for module in student:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        train(
            student,
            data,
            TrainSettings(n_steps=200, batch_size=32, bf16=False, distillation=distillation),
            teacher=asked,
        )
        with torch.no_grad():
            return float(
                nn.functional.kl_div(
                    student(x).log_softmax(1), teacher(x).softmax(1), reduction="batchmean"
                )
            )

    assert distance(0.9, teacher) < 0.8 * distance(0.0, teacher)
    assert distance(0.0, teacher) == distance(0.9, None), (
        "without a teacher, or with no share, the labels alone"
    )


def test_recalibration_sets_the_statistics_and_nothing_else() -> None:
    data, model = contours_data(), small_model()
    before = [p.clone() for p in model.parameters()]
    recalibrate(model, data.train)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model[1].running_mean.abs().sum() > 0
    assert model[1].momentum == 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(-0.01, 0.4)), min_size=2, max_size=6),
    st.floats(0, 0.8),
    st.floats(0, 0.8),
)
def test_a_calibration_is_monotone(points: list[tuple[float, float]], a: float, b: float) -> None:
    calibration = Calibration.fit(points)
    low, high = min(a, b), max(a, b)
    assert calibration(low) <= calibration(high) + 1e-9


def test_a_calibration_knows_what_it_does_not_know() -> None:
    exact = Calibration.fit([(raw, 0.03 * raw**0.5) for raw in (0.01, 0.05, 0.2)])
    rough = Calibration.fit([(0.01, 0.001), (0.05, 0.02), (0.2, 0.012)])
    assert (exact.scale, exact.power) == (pytest.approx(0.03), pytest.approx(0.5))
    assert exact(0.1) == pytest.approx(0.03 * 0.1**0.5)
    assert exact(-0.01) == 0.0
    assert exact.residual == pytest.approx(0.0, abs=1e-9)
    assert rough.residual > 0.005


def test_channels_and_schemes_are_calibrated_apart() -> None:
    narrow = [
        CalibrationPoint(Plan((w,)), seen, 0.05 * seen**0.6) for w, seen in ((6, 0.01), (4, 0.3))
    ]
    sparse = [
        CalibrationPoint(Plan((8,), (("conv", f"block(4,{d})"),)), seen, 0.1 * seen)
        for d, seen in ((0.5, 0.02), (0.25, 0.4))
    ]
    fitted = Calibrations.fit([*narrow, *sparse], (8,))
    for point in (*narrow, *sparse):
        assert fitted.full_loss(point.plan, point.cheap_loss)[0] == pytest.approx(
            point.full_loss, rel=1e-3
        )
    few = Calibrations.fit([*narrow, sparse[0]], (8,))
    assert few.channels == fitted.channels
    assert few.schemes == Calibration.fit(
        [(p.cheap_loss, p.full_loss) for p in (*narrow, sparse[0])]
    ), "one plan alone fits any map"


def test_a_scheme_makes_no_narrow_plan_look_better() -> None:
    kind, other = Calibration(0.01, 1.0, 0.001), Calibration(0.05, 1.0, 0.002)
    both = Plan((4,), (("conv", "block(4,0.5)"),))
    for channels, schemes in ((kind, other), (other, kind)):
        assert Calibrations((8,), channels, schemes).full_loss(both, 0.1) == (
            pytest.approx(0.005),
            0.002,
        )


def test_a_better_answer_of_the_oracle_is_never_rated_alike() -> None:
    calibration = Calibration.fit(
        [(0.005, 0.002), (0.0285, 0.006), (0.0538, 0.006), (0.3427, 0.0172)]
    )
    assert calibration(0.03) < calibration(0.04) < calibration(0.05)


def test_even_loss_curves_add_up_to_what_plans_lost() -> None:
    kept = np.array([[0.75, 0.75, 0.75], [0.5, 0.5, 0.5]])
    loss_model = LossModel.fit_uniform(kept, np.array([0.0, 0.03]))
    assert np.ptp(loss_model.scale) == 0.0
    assert loss_model.group_losses(kept[1]).sum() == pytest.approx(0.03, rel=0.01), (
        "the plan that lost more says more"
    )
    assert loss_model.group_losses(np.ones(3)).sum() == 0.0
    assert LossModel.fit_uniform(kept, np.array([-0.01, -0.002])).scale.min() > 0, (
        "no group is free, whatever luck fine-tunes had"
    )


def test_an_oracle_answers_once_and_reads_it_after_that() -> None:
    data, store = contours_data(), open_store(None)
    oracle = PlanOracle(
        evaluation=FinetuneEvaluation(
            pruner=lambda _: small_model(),
            weights="toy",
            data=data,
            settings=TrainSettings(n_steps=3),
        ),
        data=data,
        store=store,
        dense_accuracy=0.5,
    )
    first = oracle.accuracy(Plan((8,)))
    other = oracle.with_calibrations(Calibrations())
    assert other.accuracy(Plan((8,))).value == first.value
    assert (oracle.spending.accuracy_evaluations, other.spending.accuracy_evaluations) == (1, 0)
    assert first.standard_error > 0
    store.close()


def test_a_search_pays_for_what_another_search_of_the_run_asked_first() -> None:
    data, store = contours_data(), open_store(None)
    oracle = PlanOracle(
        evaluation=FinetuneEvaluation(
            pruner=lambda _: small_model(),
            weights="toy",
            data=data,
            settings=TrainSettings(n_steps=3),
        ),
        data=data,
        store=store,
        dense_accuracy=0.5,
        since=0.0,
    )
    oracle.accuracy(Plan((8,)))
    rival = oracle.with_calibrations(Calibrations())
    rival.accuracy(Plan((8,)))
    assert rival.spending.accuracy_evaluations == 1
    assert rival.spending.train_s == pytest.approx(oracle.spending.train_s)
    store.close()


def test_plans_that_are_looked_at_together_get_the_answers_of_each_alone() -> None:
    data, model = contours_data(), build_model("resnet8", 10).eval()
    coupled = find_groups(model, torch.zeros(1, 3, 32, 32))
    evaluation = RecalibrationEvaluation(
        pruner=lambda plan: prune(model, coupled, plan), weights="resnet8", data=data
    )
    plans = [
        Plan(tuple(max(g.minimum, round(g.channels * kept)) for g in coupled.groups))
        for kept in (1.0, 0.8, 0.5, 0.3)
    ]
    n_threads = torch.get_num_threads()
    store = open_store(None)
    oracle = PlanOracle(evaluation=evaluation, data=data, store=store, dense_accuracy=0.9)
    done: list[int] = []
    together = oracle.evaluate_all([*plans, plans[0]], on_plan=done.append)
    assert together == [evaluation(plan) for plan in [*plans, plans[0]]]
    assert torch.get_num_threads() == n_threads
    assert oracle.spending.accuracy_evaluations == len(plans)
    assert done[-1] == len(plans) + 1
    again = PlanOracle(evaluation=evaluation, data=data, store=store, dense_accuracy=0.9)
    assert [a.value for a in again.accuracies(plans)] == [a.value for a in oracle.accuracies(plans)]
    assert again.spending.accuracy_evaluations == 0
    store.close()


def test_a_batch_that_is_interrupted_keeps_what_it_has() -> None:
    data, store = contours_data(), open_store(None)

    class Interrupted:
        name = identity = "interrupted"

        def __call__(self, plan: Plan) -> float:
            if plan.widths[0] == 3:
                raise KeyboardInterrupt
            return 0.5

        def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
            return map(self, plans)

    oracle = PlanOracle(evaluation=Interrupted(), data=data, store=store, dense_accuracy=0.9)
    with pytest.raises(KeyboardInterrupt):
        oracle.accuracies([Plan((n,)) for n in (1, 2, 3)])
    assert oracle.spending.accuracy_evaluations == 2
    assert PlanOracle(
        evaluation=Interrupted(), data=data, store=store, dense_accuracy=0.9
    ).evaluate_all([Plan((1,)), Plan((2,))]) == [
        0.5,
        0.5,
    ]
    store.close()


def test_the_gate_asks_for_more_than_the_point_estimate() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random(4000) < 0.98
    pruned = dense.copy()
    pruned[:38] = False
    verdict = judge(dense, pruned, GateCriterion(floor=float(dense.mean()) - 0.01))
    assert verdict.accuracy > verdict.floor
    assert not verdict.passed, "within sampling error of the floor is not above it"
    assert judge(dense, dense, GateCriterion(floor=float(dense.mean())), is_dense=True).passed


def test_few_images_cannot_show_that_nothing_is_lost() -> None:
    few, many = np.ones(200, bool), np.ones(4000, bool)
    assert not judge(few, few, GateCriterion(floor=0.99)).passed, (
        "a network that loses a point is right on 200 images of 13 %"
    )
    assert judge(many, many, GateCriterion(floor=0.99)).passed
    assert undetectable_loss(200, 0.05) == pytest.approx(0.0149, abs=1e-4)
    assert (1 - undetectable_loss(200, 0.05, 4)) ** 200 == pytest.approx(0.05 / 4)


def test_asking_the_gate_more_often_makes_it_stricter() -> None:
    dense = np.ones(4000, bool)
    pruned = np.arange(4000) >= 20
    bounds = [
        judge(dense, pruned, GateCriterion(floor=0.9, n_looks=n_looks)).lower_bound
        for n_looks in (1, 3, 10)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 3


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize(
    ("confidence", "n_looks", "n_images"),
    [(0.95, 1, 4000), (0.95, 4, 4000), (0.8, 1, 4000), (0.95, 1, 300), (0.95, 4, 300)],
)
def test_the_gate_passes_a_network_at_the_floor_as_often_as_it_says(
    confidence: float, n_looks: int, n_images: int, is_absolute: bool
) -> None:
    rng, n_gates = np.random.default_rng(0), 1000
    truth = (
        0.97 * 0.96 + 0.04 * 0.5
    )  # accuracy of the pruned network on images without end; the dense one has 0.97
    passed = 0
    for _ in range(n_gates):
        dense = rng.random((n_looks, n_images)) < 0.97
        pruned = np.where(
            rng.random((n_looks, n_images)) < 0.04, rng.random((n_looks, n_images)) < 0.5, dense
        )
        floors = [truth if is_absolute else float(d.mean()) + truth - 0.97 for d in dense]
        passed += any(
            judge(
                d,
                p,
                GateCriterion(
                    floor=f + 1e-9, is_absolute=is_absolute, n_looks=n_looks, risk=1 - confidence
                ),
            ).passed
            for d, p, f in zip(dense, pruned, floors, strict=True)
        )
    expected = (1 - confidence) * n_gates
    spread = 3 * np.sqrt(n_gates * confidence * (1 - confidence))
    assert passed <= expected + spread, "no oftener than stated"
    assert n_images < 4000 or passed >= 0.4 * expected, "and not by refusing everything"


def test_a_dropout_is_drawn_by_the_seed_and_not_at_all_for_statistics() -> None:
    data = contours_data()
    model = nn.Sequential(small_model(), nn.Dropout(0.5), nn.BatchNorm1d(10))
    recalibrate(model, data.train)
    with torch.no_grad():
        logits = model[0](data.train.batch(slice(None)))
    torch.testing.assert_close(model[2].running_mean, logits.mean(0), atol=1e-3, rtol=1e-3)
    trained = []
    for drawn in (1, 2):
        torch.rand(drawn)  # what ran before
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
    assert sum(sizes) == 70
    assert max(sizes) == 500 * 32 * 32 // 128**2


def test_the_first_guesses_count_where_the_split_says_so() -> None:
    data, model = contours_data(), small_model().eval()
    top = data.with_top(3)
    assert evaluate(model, top.test) > evaluate(model, data.test)
    assert top.fingerprint != data.fingerprint
    with torch.no_grad():
        logits = model(data.test.batch(slice(None)))
    own = logits.gather(1, data.test.targets[:, None])
    assert np.array_equal(correct_predictions(model, top.test), ((logits > own).sum(1) < 3).numpy())
    with pytest.raises(ConfigError, match="give 1 to 9"):
        data.with_top(10)


def test_predictions_do_not_depend_on_the_batch() -> None:
    data, model = contours_data(), small_model().eval()
    x = data.test.batch(slice(None))
    with torch.no_grad():
        assert np.array_equal(
            correct_predictions(model, data.test), (model(x).argmax(1) == data.test.targets).numpy()
        )


# --- where networks are trained


@pytest.mark.parametrize("name", ["meta", "tpu", "cuda:99"])
def test_a_device_that_networks_cannot_be_trained_on_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        train_device(name)
    assert train_device("cpu") == torch.device("cpu")


def test_what_another_processor_judged_is_kept_apart() -> None:
    data = contours_data()
    asked: list[Plan] = []

    class Counting:
        name = identity = "counting"

        def __call__(self, plan: Plan) -> float:
            asked.append(plan)
            return 0.5

        def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
            return map(self, plans)

    store, plan = open_store(None), Plan((1,))
    for where in ("cpu", "cpu", "cuda", "cuda"):
        PlanOracle(
            evaluation=Counting(),
            data=data.to(torch.device(where)),
            store=store,
            dense_accuracy=0.9,
        ).evaluate_all([plan])
    assert len(asked) == 2


def test_images_on_the_processor_are_the_same_images() -> None:
    data = contours_data()
    moved = data.to(torch.device("cpu"))
    assert moved.fingerprint == data.fingerprint
    assert torch.equal(moved.train.batch(slice(0, 8)), data.train.batch(slice(0, 8)))


def test_what_a_network_gained_over_the_dense_one_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random(4000) < 0.95
    pruned = dense ^ (rng.random(4000) < 0.02)
    found = difference_interval(pruned, dense)
    assert found.value == pytest.approx(float(pruned.mean() - dense.mean()))
    assert found.low < found.value < found.high
    turned = difference_interval(dense, pruned)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low)), (
        "the other way round it is the same"
    )
    same = difference_interval(dense, dense)
    assert same.low <= 0.0 == same.value <= same.high
