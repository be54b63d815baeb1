"""The search for one task's schedules, with made-up latencies in place of a device."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.compiler.tuning.cost_model import ScheduleCostModel
from cprune_rl.compiler.tuning.schedule import Candidate, ScheduleTrace, random_candidates
from cprune_rl.compiler.tuning.trace_search import TraceSearch
from tests.conftest import Lowered
from tests.doubles.tuning_fixtures import search_task


def budget(
    n_random: int = 4, n_max: int = 64, n_pool: int = 0, worth_s: float = 1.0
) -> TuningBudget:
    return TuningBudget(n_pool=n_pool, n_random=n_random, n_max=n_max, worth_s=worth_s)


def equally_fast(candidates: Sequence[Candidate]) -> list[float]:
    return [1.0] * len(candidates)


def rewards_wide_tiles(candidates: Sequence[Candidate]) -> list[float]:
    return [1.0 / (1 + n_wide_tiles(candidate)) for candidate in candidates]


def n_wide_tiles(candidate: Candidate) -> int:
    instructions, decisions = json.loads(candidate.trace.json)
    splits = [
        value for position, value in decisions if instructions[position][0] == "SamplePerfectTile"
    ]
    return sum(factor == 16 for split in splits for factor in split)


def test_a_search_stops_where_a_trial_no_longer_pays(lowered: Lowered) -> None:
    sizes: list[int] = []

    def measure(candidates: Sequence[Candidate]) -> list[float]:
        sizes.append(len(candidates))
        return equally_fast(candidates)

    task = search_task(lowered)
    model = ScheduleCostModel()
    tried = TraceSearch(task, budget(worth_s=0.001), model).run(measure)
    assert len(tried) == sum(sizes) <= 4, "nothing is worth a trial"
    tried = TraceSearch(task, budget(worth_s=3.0), model).run(equally_fast)
    assert 4 < len(tried) < 64, "it hopes for a while, then gives up"
    assert len({c.trace.digest for c in tried}) == len(tried)


def test_evolution_follows_what_is_better(lowered: Lowered) -> None:
    def tried_by(seed: int) -> list[Candidate]:
        task = search_task(lowered, seed)
        search = TraceSearch(task, budget(n_max=28, worth_s=1000.0), ScheduleCostModel())
        return search.run(rewards_wide_tiles)

    tried = tried_by(0)
    assert len(tried) == 28
    assert [c.trace for c in tried] == [c.trace for c in tried_by(0)], "same seed, same search"
    first = np.mean(rewards_wide_tiles(tried[:4]))
    last = np.mean(rewards_wide_tiles(tried[-12:]))
    assert last < first, "later schedules are better than those that it started from"


def test_a_failing_task_ends_after_its_first_schedules(lowered: Lowered) -> None:
    search = TraceSearch(search_task(lowered), budget(3, worth_s=100.0), ScheduleCostModel())
    assert len(search.run(lambda candidates: [math.inf] * len(candidates))) <= 3


def test_schedules_of_the_pool_come_first_and_count(lowered: Lowered) -> None:
    task = search_task(lowered)
    pool = [c.trace for c in random_candidates(task.module, task.target, 3, seed=9)]
    search = TraceSearch(
        replace(task, pool=pool), budget(n_random=4, n_max=3, n_pool=2), ScheduleCostModel()
    )
    tried = [c.trace for c in search.run(equally_fast)]
    assert tried[:2] == pool[:2], "as many as the budget takes, in the pool's order"
    assert len(tried) == 3, "the random ones fill up what is left"


def test_a_schedule_of_the_pool_that_does_not_fit_is_left_out(lowered: Lowered) -> None:
    task = replace(search_task(lowered), pool=[ScheduleTrace("[]")])
    search = TraceSearch(task, budget(n_random=0, n_pool=1), ScheduleCostModel())
    assert search.run(equally_fast) == []


def test_every_trial_teaches_the_cost_model_once(lowered: Lowered) -> None:
    class Listening(ScheduleCostModel):
        n_rows = 0

        def learn(self, rows: np.ndarray, latencies_s: Sequence[float], best_s: float) -> None:
            self.n_rows += len(rows)
            super().learn(rows, latencies_s, best_s)

    model = Listening()
    settings = budget(n_max=12, worth_s=1000.0)
    tried = TraceSearch(search_task(lowered), settings, model).run(rewards_wide_tiles)
    assert len(tried) == 12
    assert model.n_rows == 12 - settings.n_batch, "all but the last batch"


def test_a_cost_model_ranks_what_it_has_learnt() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 6))
    model = ScheduleCostModel()
    with pytest.raises(ValueError, match="needs 8 trials, 0 were seen"):
        model.rank(rows)
    latencies = np.exp(rows[:, 0])
    latencies[5] = math.inf
    model.learn(rows, latencies.tolist(), best_s=float(latencies.min()))
    assert model.is_ready
    order = model.rank(rows)
    assert np.corrcoef(np.argsort(order), rows[:, 0])[0, 1] > 0.8


def test_budgets_keep_the_keys_that_earlier_cost_caches_hold() -> None:
    settings = TuningSettings()
    budgets = (settings.survey, settings.dense, settings.near, settings.transpose)
    assert [b.key for b in budgets] == [
        "4:12:12:1.0:4:16",
        "4:12:64:3.0:4:16",
        "4:3:16:1.0:4:16",
        "0:6:6:1.0:4:16",
    ]
