"""The oracle of a search: what it asks, what it keeps, and what it charges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import pytest
import torch

from cprune_rl.accuracy.calibration import Calibration, Calibrations
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.oracle import FinetuneEvaluation, PlanOracle, RecalibrationEvaluation
from cprune_rl.accuracy.trainer import ImageTrainer, Trainer
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy
from cprune_rl.cost_cache import CostStore, open_store
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.images import contours_data
from tests.doubles.networks import small_network, uniform_plan

PLAN = Plan((8,))
# of the plans (8, 4) without and with a scheme, as 0.2 wrote them
KEY_OF_0_2 = "cae986b0c21c64ca6a26f242af0ef947c5c2193d3228cfbef857d3421498e7df"
KEY_OF_0_2_WITH_SCHEME = "2a3ac5deede99dff8a672000023d13bccc87150cda35a72a7160327cd127bb29"


class FixedEvaluation:
    """Answers what it is told to, and remembers what it was asked."""

    name = identity = "fixed"

    def __init__(self, answer: float = 0.5, interrupted_at: int | None = None) -> None:
        self.answer = answer
        self.interrupted_at = interrupted_at
        self.asked: list[Plan] = []

    def __call__(self, plan: Plan) -> float:
        if plan.widths[0] == self.interrupted_at:
            raise KeyboardInterrupt
        self.asked.append(plan)
        return self.answer

    def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
        return map(self, plans)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Few images of contours."""
    return contours_data()


@pytest.fixture
def store() -> Iterator[CostStore]:
    """A cost cache in memory."""
    store = open_store(None)
    yield store
    store.close()


def finetuning(data: ImageData, **changes: Any) -> FinetuneEvaluation:
    """A fine-tune of three steps of a network that plans leave as it is."""
    return FinetuneEvaluation(
        pruner=lambda _: small_network(),
        weights="toy",
        trainer=ImageTrainer(data),
        settings=TrainSettings(n_steps=3),
        **changes,
    )


def test_full_losses_are_counted_from_the_better_dense_network(
    data: ImageData, store: CostStore
) -> None:
    evaluation = FixedEvaluation(0.7)
    given = PlanOracle(
        evaluation=evaluation, trainer=ImageTrainer(data), store=store, dense_accuracy=0.8
    )
    better = given.counted_from(0.84).with_calibrations(Calibrations(channels=Calibration(0.2)))
    assert better.losses([PLAN]) == given.losses([PLAN]) == [pytest.approx(0.1)]
    assert better.accuracy(PLAN).value == pytest.approx(0.84 - 0.2 * 0.1)
    gaining = Calibration(scale=0.0, offset=-0.3)
    sure = better.with_calibrations(Calibrations(channels=gaining))
    assert sure.accuracy(PLAN).value == 1.0, "no accuracy is above 1"


def test_an_oracle_answers_once_and_reads_it_after_that(data: ImageData, store: CostStore) -> None:
    oracle = PlanOracle(
        evaluation=finetuning(data), trainer=ImageTrainer(data), store=store, dense_accuracy=0.5
    )
    first = oracle.accuracy(PLAN)
    other = oracle.with_calibrations(Calibrations())
    assert other.accuracy(PLAN).value == first.value
    assert oracle.spending.accuracy_evaluations == 1
    assert other.spending.accuracy_evaluations == 0
    assert first.standard_error > 0


def test_a_search_pays_for_what_another_search_of_the_run_asked_first(
    data: ImageData, store: CostStore
) -> None:
    oracle = PlanOracle(
        evaluation=finetuning(data),
        trainer=ImageTrainer(data),
        store=store,
        dense_accuracy=0.5,
        since=0.0,
    )
    oracle.accuracy(PLAN)
    rival = oracle.with_calibrations(Calibrations())
    rival.accuracy(PLAN)
    assert rival.spending.accuracy_evaluations == 1
    assert rival.spending.train_s == pytest.approx(oracle.spending.train_s)


def test_plans_that_are_evaluated_together_get_the_answers_of_each_alone(
    data: ImageData, store: CostStore
) -> None:
    model = build_model("resnet8", 10).eval()
    coupled = find_groups(model, torch.zeros(1, 3, 32, 32))
    evaluation = RecalibrationEvaluation(
        pruner=lambda plan: prune(model, coupled, plan),
        weights="resnet8",
        trainer=ImageTrainer(data),
    )
    plans = [uniform_plan(coupled, ratio) for ratio in (1.0, 0.8, 0.5, 0.3)]
    n_threads = torch.get_num_threads()
    oracle = PlanOracle(
        evaluation=evaluation, trainer=ImageTrainer(data), store=store, dense_accuracy=0.9
    )
    done: list[int] = []
    together = oracle.evaluate_all([*plans, plans[0]], on_plan=done.append)
    assert together == [evaluation(plan) for plan in [*plans, plans[0]]]
    assert torch.get_num_threads() == n_threads
    assert oracle.spending.accuracy_evaluations == len(plans)
    assert done[-1] == len(plans) + 1
    again = PlanOracle(
        evaluation=evaluation, trainer=ImageTrainer(data), store=store, dense_accuracy=0.9
    )
    assert [a.value for a in again.accuracies(plans)] == [a.value for a in oracle.accuracies(plans)]
    assert again.spending.accuracy_evaluations == 0


def test_a_batch_that_is_interrupted_keeps_what_it_has(data: ImageData, store: CostStore) -> None:
    evaluation = FixedEvaluation(interrupted_at=3)
    oracle = PlanOracle(
        evaluation=evaluation, trainer=ImageTrainer(data), store=store, dense_accuracy=0.9
    )
    with pytest.raises(KeyboardInterrupt):
        oracle.accuracies([Plan((width,)) for width in (1, 2, 3)])
    assert oracle.spending.accuracy_evaluations == 2
    again = PlanOracle(
        evaluation=evaluation, trainer=ImageTrainer(data), store=store, dense_accuracy=0.9
    )
    assert again.evaluate_all([Plan((1,)), Plan((2,))]) == [0.5, 0.5]
    assert len(evaluation.asked) == 2


def test_what_another_processor_judged_is_kept_apart(data: ImageData, store: CostStore) -> None:
    evaluation = FixedEvaluation()
    for device in ("cpu", "cpu", "cuda", "cuda"):
        oracle = PlanOracle(
            evaluation=evaluation,
            trainer=ImageTrainer(data.to(torch.device(device))),
            store=store,
            dense_accuracy=0.9,
        )
        oracle.evaluate_all([PLAN])
    assert len(evaluation.asked) == 2


def test_losses_are_counted_from_what_the_evaluation_gives_for_the_dense_network(
    data: ImageData, store: CostStore
) -> None:
    oracle = PlanOracle(
        evaluation=FixedEvaluation(0.6),
        trainer=ImageTrainer(data),
        store=store,
        dense_accuracy=0.9,
        reference=0.75,
    )
    assert oracle.losses([PLAN]) == [pytest.approx(0.15)]
    assert oracle.accuracy(PLAN).value == pytest.approx(0.75)


def test_an_answer_is_calibrated_and_says_how_sure_it_is(data: ImageData, store: CostStore) -> None:
    calibration = Calibration(scale=0.5, power=1.0, residual=0.01)
    oracle = PlanOracle(
        evaluation=FixedEvaluation(0.6),
        trainer=ImageTrainer(data),
        store=store,
        dense_accuracy=0.9,
        calibrations=Calibrations(dense=(9,), channels=calibration),
    )
    answer = oracle.accuracy(PLAN)
    assert answer.value == pytest.approx(0.9 - 0.5 * 0.3)
    assert answer.n_images == len(data.search)
    sampling_error = math.sqrt(0.6 * 0.4 / len(data.search))
    assert answer.standard_error == pytest.approx(math.hypot(0.5 * sampling_error, 0.01)), (
        "an error of the images counts as much as the map lets it"
    )


def test_a_cost_cache_of_0_2_still_answers() -> None:
    keys: list[str] = []

    class Store:
        """Remembers the keys that it is asked for."""

        def accuracy(self, key: str) -> tuple[Accuracy, float]:
            keys.append(key)
            return Accuracy(value=0.5), 0.0

    class Known:
        """A trainer of which only the hash is known."""

        fingerprint = "0123456789abcdef"
        device_type = "cpu"
        n_images: ClassVar = {"search": 1}

    oracle = PlanOracle(
        evaluation=FixedEvaluation(),
        trainer=cast("Trainer", Known()),
        store=cast("CostStore", Store()),
        dense_accuracy=0.9,
    )
    plans = [Plan((8, 4)), Plan((8, 4), (("conv", "block(4,0.25)"),))]
    assert oracle.evaluate_all(plans) == [0.5, 0.5]
    assert keys == [KEY_OF_0_2, KEY_OF_0_2_WITH_SCHEME]


def test_evaluations_are_named_in_the_cost_cache_as_0_2_named_them(data: ImageData) -> None:
    settings = (
        '{"n_steps": 3, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 0.0005, '
        '"label_smoothing": 0.05, "warmup": 0.2, "seed": 0, "bf16": null, "distillation": 0.0}'
    )
    assert finetuning(data).identity == f"finetune:toy:{settings}"
    assert finetuning(data).name == "finetune:3"
    gradual = finetuning(
        data, gradual_pruning=lambda *_: None, gradual_pruning_name="by steps, cubic"
    )
    assert gradual.identity == f"finetune:toy:{settings}:by steps, cubic"
    recalibration = RecalibrationEvaluation(
        pruner=lambda _: small_network(), weights="toy", trainer=ImageTrainer(data), name="supernet"
    )
    assert recalibration.identity == "recalibrate:toy"


def test_a_gradual_fine_tune_prunes_while_it_trains(data: ImageData) -> None:
    pruned_at: list[int] = []

    def gradual_pruning(model: torch.nn.Module, plan: Plan, n_steps: int) -> Any:
        assert (plan, n_steps) == (PLAN, 3)
        return lambda step, _: pruned_at.append(step)

    finetuning(data, gradual_pruning=gradual_pruning, gradual_pruning_name="each")(PLAN)
    assert pruned_at == [1, 2, 3]
