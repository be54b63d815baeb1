"""The network tuner and deployment, on real tasks of a real network."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.run_networks import run_library
from cprune_rl.compiler.deploy.time_networks import Rounds, compare_libraries
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.layouts.survey import Channels, VariantSurvey
from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.cost_cache import CostStore, open_store
from cprune_rl.models.weights import export_torch
from cprune_rl.pruning.surgery import prune
from cprune_rl.testing import check_latency_source
from tests.conftest import Lowered
from tests.doubles.tuning_fixtures import CrashingDevice

TINY = TuningSettings(
    survey=TuningBudget(n_pool=1, n_random=1, n_max=1),
    dense=TuningBudget(n_pool=1, n_random=1, n_max=1),
    near=TuningBudget(n_pool=1, n_random=1, n_max=1),
    transpose=TuningBudget(n_pool=0, n_random=1, n_max=1),
    n_shared=1,
)
SMALL = TuningSettings(
    survey=TuningBudget(n_pool=1, n_random=2, n_max=2),
    dense=TuningBudget(n_pool=1, n_random=2, n_max=4),
    near=TuningBudget(n_pool=1, n_random=1, n_max=2),
    transpose=TuningBudget(n_pool=0, n_random=1, n_max=1),
    n_shared=1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CostStore]:
    """What `tuned` has tried."""
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/costs.db")
    yield store
    store.close()


@pytest.fixture(scope="module")
def tuned(lowered: Lowered, device: LocalDevice, store: CostStore) -> NetworkTuner:
    """A tuner that knows the dense network; all trials count as those of its run."""
    tuner = NetworkTuner(lowered.variants, device, store, SMALL, since=0.0)
    tuner.tune_dense()
    return tuner


@pytest.mark.slow
def test_a_second_search_makes_no_fresh_trial_for_what_the_first_one_timed(
    lowered: Lowered, device: LocalDevice, store: CostStore, tuned: NetworkTuner
) -> None:
    narrow = lowered.network.uniform(0.5)
    costs = tuned.measure(narrow)
    assert all(c.error is None and c.tile_factors for c in costs if c.latency_s > 1e-6)
    assert tuned.spending.fresh_trials > 10
    tuned.cross_apply([lowered.network.dense, narrow])
    second = NetworkTuner(lowered.variants, device, store, SMALL)
    second.tune_dense()
    assert second.measure(narrow) == costs, "what later trials found does not change a search's way"
    assert second.predict(lowered.network.workloads(narrow)) == costs
    second.cross_apply([lowered.network.dense, narrow])
    assert second.spending.fresh_trials == 0
    assert second.spending.cached_trials > 10
    pairs = zip(
        lowered.network.workloads(lowered.network.dense),
        lowered.network.workloads(narrow),
        strict=True,
    )
    assert all(
        second.tasks.n_trials(dense) >= second.tasks.n_trials(pruned)
        for dense, pruned in pairs
        if dense.macs
    )


def test_a_failed_trial_is_a_value_in_the_cache_and_is_not_tried_again(lowered: Lowered) -> None:
    store = open_store(None)
    with CrashingDevice() as broken:
        first, second = (NetworkTuner(lowered.variants, broken, store, TINY) for _ in range(2))
        first.tune_dense()
        costs = first.measure(lowered.network.dense)
        assert {c.error for c in costs} == {"crashed"}
        workload = lowered.network.workloads(lowered.network.dense)[0]
        trials = store.trials(first.tasks.context, workload.key)
        assert [t.measurement.error for t in trials] == ["crashed"]
        second.tune_dense()
        assert second.spending.fresh_trials == 0
    store.close()


def test_a_variant_that_a_later_plan_brings_back_is_tuned_for_the_plans_before_it_too(
    lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(None)
    plans = [lowered.network.uniform(0.75), lowered.network.uniform(0.3)]
    wide, narrow = (
        {(w.channels_in, w.channels_out) for w in lowered.network.workloads(plan)} for plan in plans
    )
    seen_in_narrow_alone: list[Channels] = []
    record = VariantSurvey.record

    def recorded(survey: VariantSurvey, channels: Channels, costs: Mapping[int, float]) -> None:
        seen_in_narrow_alone.extend({channels} & (narrow - wide))
        record(survey, channels, costs)

    def candidates(survey: VariantSurvey, channels: Channels, tolerance: float) -> tuple[int, ...]:
        return survey._variants if seen_in_narrow_alone else survey._variants[:1]

    monkeypatch.setattr(VariantSurvey, "record", recorded)
    monkeypatch.setattr(VariantSurvey, "candidates", candidates)
    with CrashingDevice() as broken:
        tuner = NetworkTuner(lowered.variants, broken, store, TINY)
        tuner.tune_dense()
        tuner.extend_pool(plans)
        tuner.cross_apply(plans)
        assert seen_in_narrow_alone
        assert all(
            tuner.tasks.n_trials(task) > 0
            for plan in plans
            for variants in lowered.variants.workloads(plan)
            for task in variants
        )
    store.close()


@pytest.mark.slow
def test_a_search_outlives_its_server(lowered: Lowered, device: LocalDevice) -> None:
    store = open_store(None)
    tuner = NetworkTuner(lowered.variants, device, store, TINY)
    assert device.time_reference().error is None  # starts the server
    killed: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.is_set():
            if (server := device.server_process) is not None and server.poll() is None:
                server.kill()
                server.wait()
                killed.append(server.pid)
                return
            time.sleep(0.02)  # it is not started again yet

    killers = [threading.Timer(after, kill) for after in (0.5, 1.5)]
    for killer in killers:
        killer.start()
    try:
        tuner.tune_dense()
        costs = tuner.measure(lowered.network.uniform(0.5))
    finally:
        is_over.set()
        for killer in killers:
            killer.cancel()
            killer.join()
    assert len(set(killed)) == 2, "both servers died in the search"
    assert device.server_process is not None
    assert device.server_process.pid not in killed
    assert all(c.error is None for c in costs)
    store.close()


@pytest.mark.slow
def test_each_search_of_a_run_pays_as_if_it_were_alone(
    lowered: Lowered, tuned: NetworkTuner
) -> None:
    first = tuned.view()
    second = tuned.view()
    for search in (first, second):
        search.measure(lowered.network.uniform(0.5))
    assert first.spending.fresh_trials == second.spending.fresh_trials > 0
    check_latency_source(tuned.view(), lowered.network)


@pytest.mark.slow
def test_the_compiled_network_computes_what_torch_computes(
    lowered: Lowered, device: LocalDevice, tuned: NetworkTuner, tmp_path: Path
) -> None:
    libraries = {}
    image = torch.randn(1, 3, 32, 32)
    for name, plan in (("dense", lowered.network.dense), ("narrow", lowered.network.uniform(0.5))):
        tuned.measure(plan)
        model = prune(lowered.model, lowered.coupled, plan)
        libraries[name] = tmp_path / f"{name}.so"
        build_network(tuned, plan, model, path=libraries[name])
        with torch.no_grad():
            expected = model(image).numpy()
        np.testing.assert_allclose(run_library(libraries[name], image.numpy()), expected, atol=1e-4)
        export_torch(model, (1, 3, 32, 32), tmp_path / f"{name}.pt2")
        np.testing.assert_allclose(
            torch.export.load(tmp_path / f"{name}.pt2").module()(image).detach().numpy(),
            expected,
            atol=1e-5,
        )
    done: list[int] = []
    rounds = Rounds(3, on_round=done.append)
    timed = compare_libraries(device, libraries, (1, 3, 32, 32), rounds=rounds)
    assert done == [1, 2, 3]
    assert list(timed.latency_ms) == ["dense", "narrow"]
    assert list(timed.speedup) == ["narrow"]
    assert timed.noise_floor >= 0
    options = ["--rounds", "3", "--input-shape", "1,3,32,32", "--json"]
    command = ["device", "compare", "local", *map(str, libraries.values()), *options]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    assert set(json.loads(outcome.stdout)["speedup"]) == {"narrow"}
