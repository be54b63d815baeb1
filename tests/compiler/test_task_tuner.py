"""Tuning of single tasks: what is tried once, what it costs, and what the pool offers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.task_tuner import SchedulePool, TaskTuner, TuningTask, distance
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Spending
from cprune_rl.cost_cache import CostStore, open_store
from tests.conftest import Lowered
from tests.doubles.tuning_fixtures import CrashingDevice, MadeUpDevice, conv_task

BUDGET = TuningBudget(n_pool=0, n_random=3, n_max=3)


@pytest.fixture
def store() -> Iterator[CostStore]:
    store = open_store(None)
    yield store
    store.close()


@pytest.fixture(scope="module")
def made_up() -> Iterator[MadeUpDevice]:
    with MadeUpDevice() as device:
        yield device


def task_of(lowered: Lowered, plan: Plan) -> TuningTask:
    module = conv_task(lowered, plan)
    return TuningTask(lowered.network.workloads(plan)[1], lambda: (module, None), 0.2)


@pytest.fixture(scope="module")
def wide(lowered: Lowered) -> TuningTask:
    """A convolution of 8 channels."""
    return task_of(lowered, lowered.network.dense)


@pytest.fixture(scope="module")
def narrow(lowered: Lowered) -> TuningTask:
    """The same of 4 channels."""
    return task_of(lowered, lowered.network.uniform(0.5))


def trial_counts(spending: Spending) -> tuple[int, int]:
    return spending.fresh_trials, spending.cached_trials


def test_a_task_is_tuned_once_in_each_way(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    cost = tuner.tune(wide, "near", BUDGET)
    assert cost.error is None
    assert tuner.costs == {wide.workload.key: cost}
    assert trial_counts(tuner.spending) == (3, 0)
    assert tuner.n_trials(wide.workload) == 3
    again = TaskTuner(made_up, store, seed=0, since=math.inf)
    assert again.tune(wide, "near", BUDGET) == cost
    assert trial_counts(again.spending) == (0, 3), "the cost cache held them"
    assert store.tuned(made_up.context, wide.workload.key, "near:0:3:3:1.0:4:16:seed=0")
    again.tune(wide, "dense", BUDGET)
    assert trial_counts(again.spending) == (0, 6), "another way asks for the same schedules"


def test_what_another_search_of_the_run_tried_is_charged_as_fresh(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    started = time.time()
    first = TaskTuner(made_up, store, seed=0, since=started)
    first.tune(wide, "near", BUDGET)
    second = TaskTuner(made_up, store, seed=0, since=started)
    second.tune(wide, "near", BUDGET)
    assert trial_counts(second.spending) == trial_counts(first.spending) == (3, 0)
    assert second.spending.measure_s == pytest.approx(first.spending.measure_s)


def test_a_view_shares_the_pool_and_spends_for_itself(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    cost = tuner.tune(wide, "near", BUDGET)
    tuner.add_to_pool([wide.workload], 1)
    view = tuner.view({"known": cost})
    assert view.costs == {"known": cost}
    assert view.spending == Spending()
    assert view.pool.nearest(wide.workload) == tuner.pool.nearest(wide.workload)
    view.tune(wide, "near", BUDGET)
    assert trial_counts(tuner.spending) == (3, 0)
    assert "known" not in tuner.costs


def test_the_best_schedules_are_tried_on_the_other_shapes_of_their_family(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask, narrow: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    tasks = {task.workload.key: task for task in (wide, narrow)}
    for task in tasks.values():
        tuner.tune(task, "near", BUDGET)
    before = dict(tuner.costs)
    done: list[int] = []
    tuner.cross_apply(tasks, n_best=2, on_task=done.append)
    assert done == [1, 2]
    for key, task in tasks.items():
        assert tuner.costs[key].latency_s <= before[key].latency_s
        best = tuner.best_schedule(task.workload)
        assert best is not None
        assert best[0] == tuner.pool.nearest(task.workload)[0], "the pool begins with the best"
        assert best[1] == tuner.costs[key].latency_s


def test_a_search_does_not_see_what_others_found_until_it_adopts_that(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    own = tuner.tune(wide, "near", TuningBudget(n_pool=0, n_random=1, n_max=1))
    other = TaskTuner(made_up, store, seed=1, since=math.inf)
    others = other.tune(wide, "near", TuningBudget(n_pool=0, n_random=12, n_max=12))
    tuner.tune(wide, "near", TuningBudget(n_pool=0, n_random=1, n_max=1))
    assert tuner.costs[wide.workload.key] == own
    tuner.adopt_fastest([wide.workload])
    assert tuner.costs[wide.workload.key].latency_s == min(own.latency_s, others.latency_s)


def test_a_task_on_which_everything_crashes_has_a_cost_with_the_error(
    store: CostStore, wide: TuningTask
) -> None:
    with CrashingDevice() as device:
        tuner = TaskTuner(device, store, seed=0, since=math.inf)
        cost = tuner.tune(wide, "near", BUDGET)
        assert (cost.latency_s, cost.error) == (math.inf, "crashed")
        assert tuner.best_schedule(wide.workload) is None
        assert tuner.n_trials(wide.workload) == 3, "failures are kept"


def test_a_task_that_no_schedule_fits_has_a_cost_that_says_so(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    cost = tuner.tune(wide, "near", TuningBudget(n_pool=4, n_random=0, n_max=4))
    assert cost.error == "no program fits this task"
    assert trial_counts(tuner.spending) == (0, 0)


def test_the_cost_tells_how_the_channel_loop_is_tiled(
    made_up: MadeUpDevice, store: CostStore, wide: TuningTask
) -> None:
    cost = TaskTuner(made_up, store, seed=0, since=math.inf).tune(wide, "near", BUDGET)
    assert math.prod(cost.tile_factors) == wide.workload.channels_out
    assert cost.lanes == 1, "in NCHW an iteration computes one channel"


def test_the_pool_begins_with_the_cost_cache_and_offers_the_nearest_shape_first(
    made_up: MadeUpDevice, store: CostStore, lowered: Lowered, wide: TuningTask, narrow: TuningTask
) -> None:
    tuner = TaskTuner(made_up, store, seed=0, since=math.inf)
    for task in (wide, narrow):
        tuner.tune(task, "near", BUDGET)
    pool = SchedulePool(store, made_up.context)
    best = {}
    for task in (wide, narrow):
        fastest = tuner.best_schedule(task.workload)
        assert fastest is not None
        best[task.workload.channels_out] = fastest[0]
    assert pool.nearest(wide.workload) == [best[8], best[4]]
    assert pool.nearest(narrow.workload) == [best[4], best[8]]
    assert SchedulePool(store, "another device").nearest(wide.workload) == []
    other_family = lowered.network.workloads(lowered.network.dense)[-1]
    assert pool.nearest(other_family) == []


def test_distance_is_zero_at_the_same_shape_and_symmetric(
    wide: TuningTask, narrow: TuningTask
) -> None:
    assert distance(wide.workload, wide.workload) == 0
    there = distance(wide.workload, narrow.workload)
    assert there == distance(narrow.workload, wide.workload) == pytest.approx(2 * math.log(2))
