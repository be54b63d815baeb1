"""Builds the whole network from the schedules whose times the table shows."""

from __future__ import annotations

from pathlib import Path

import tvm
from torch import nn

from cprune_rl.compiler.deploy.apply_schedules import apply_schedules
from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.layouts.compose import ComposedNetwork, compose
from cprune_rl.compiler.layouts.variants import VariantChoice
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.network import Plan
from cprune_rl.errors import ModelError

__all__ = ["build_maps", "build_network"]


def build_network(
    tuner: NetworkTuner,
    plan: Plan,
    model: nn.Module,
    path: Path,
    choice: VariantChoice | None = None,
) -> None:
    """Compile a pruned network into one library that runs with TVM's runtime alone.

    Args:
        tuner: has tuned the tasks of the network.
        plan: what `model` keeps.
        model: the pruned network, with its trained weights.
        path: library to write.
        choice: the variant of each subgraph; None for the fastest.

    Raises:
        ModelError: a task has no schedule that runs.
    """
    choice = choice or tuner.choice(plan)
    _build(tuner, compose(tuner.variants, plan, choice, state_arrays(model)), path)


def build_maps(
    tuner: NetworkTuner, plan: Plan, model: nn.Module, path: Path, choice: VariantChoice
) -> None:
    """Compile a network that answers with the map of every subgraph.

    Args:
        tuner: see `build_network`.
        plan: see `build_network`.
        model: see `build_network`.
        path: see `build_network`.
        choice: the variant of each subgraph.

    Raises:
        ModelError: a task has no schedule that runs.
    """
    values = state_arrays(model)
    _build(tuner, compose(tuner.variants, plan, choice, values, gives_maps=True), path)


def _build(tuner: NetworkTuner, composed: ComposedNetwork, path: Path) -> None:
    traces = {}
    for function, workload in composed.tasks.items():
        best = tuner.tasks.best_schedule(workload)
        if best is None:
            raise ModelError(
                f"task {workload.key[:80]} has no program that runs, "
                "so the network cannot be compiled"
            )
        traces[function], _ = best
    target = tuner.device.target
    scheduled = apply_schedules(composed.module, traces, target)
    tuner.device.export(tvm.compile(scheduled, target=target), path)
