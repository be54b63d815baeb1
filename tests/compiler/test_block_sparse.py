"""A whole network pruned by schemes: tuned, compiled, and equal to torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.run_networks import run_library
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.network import Network, Plan
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import ModelError
from cprune_rl.pruning.scheme_masks import apply_masks, bake_masks
from cprune_rl.pruning.surgery import prune
from tests.conftest import Lowered

ONE = TuningBudget(n_pool=1, n_random=1, n_max=1)
TINY = TuningSettings(
    survey=ONE,
    dense=ONE,
    near=ONE,
    transpose=TuningBudget(n_pool=0, n_random=1, n_max=1),
    n_shared=1,
)
SCHEMES = (
    "block(8,0.25)",
    "kernel(8,0.25)",
    "block(1,0.5)",
    "kernel(5,0.5)",
    "block(64,0.3)",
    "pattern(4,0.3)",
)


def pruned_in_every_way(network: Network) -> Plan:
    """Fewer channels, and one of the schemes for each layer with 3x3 kernels, in turn."""
    layers = [layer for layer, at in network.scheme_layers.items() if network.has_3x3_kernels(at)]
    schemes = [(layer, SCHEMES[at % len(SCHEMES)]) for at, layer in enumerate(layers)]
    return Plan(network.uniform(0.75).widths, (*schemes, ("fc", "block(5,0.5)")))


@pytest.fixture(scope="module")
def tuner(lowered: Lowered, device: LocalDevice) -> Iterator[NetworkTuner]:
    store = open_store(None)
    tuner = NetworkTuner(lowered.variants, device, store, TINY)
    tuner.tune_dense()
    yield tuner
    store.close()


@pytest.mark.slow
def test_every_layer_is_timed_on_what_it_would_read(lowered: Lowered, tuner: NetworkTuner) -> None:
    plan = pruned_in_every_way(lowered.network)
    assert not [cost.error for cost in tuner.measure(plan) if cost.error]
    for at in lowered.network.schemes(plan):
        for workload in lowered.variants.workloads(plan)[at]:
            _, check = tuner._load(workload, plan)
            assert check is not None
            (table,) = check.tables().values()
            assert len(np.unique(table)) > 1


@pytest.mark.slow
def test_a_network_pruned_by_channels_and_by_schemes_computes_what_torch_computes(
    lowered: Lowered, tuner: NetworkTuner, tmp_path: Path
) -> None:
    network = lowered.network
    plan = pruned_in_every_way(network)
    narrow = prune(lowered.model, lowered.coupled, plan)
    model = bake_masks(apply_masks(narrow, network.schemes_by_layer(plan))).eval()
    library = tmp_path / "pruned.so"
    build_network(tuner, plan, model, path=library)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(image).numpy()
    np.testing.assert_allclose(run_library(library, image.numpy()), expected, atol=1e-4)
    with pytest.raises(ModelError, match="holds"):
        build_network(tuner, plan, narrow, path=tmp_path / "whole.so")


@pytest.mark.slow
def test_an_equal_plan_costs_no_trial(lowered: Lowered, tuner: NetworkTuner) -> None:
    plan = pruned_in_every_way(lowered.network)
    tuner.measure(plan)
    before = tuner.spending.fresh_trials
    tuner.measure(Plan(plan.widths, tuple((layer, text) for layer, text in plan.schemes)))
    assert tuner.spending.fresh_trials == before
