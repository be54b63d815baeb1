"""Compiles a network in every form, and has its tasks run on the device once.

The part of a check that loads the compiler.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import default_url, open_store
from cprune_rl.pipeline.preflight.report import Finding
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.groups import CoupledGroups

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.base import RpcDevice
    from cprune_rl.compiler.layouts.variants import LayoutVariants
    from cprune_rl.pipeline.preflight.run import CheckSettings

__all__ = ["TrialCosts", "check_compiled"]

_TWO_TRIALS = TuningBudget(n_pool=0, n_random=2, n_max=2)
_ERRORS_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """What compiling told of a network.

    Attributes:
        forms: in which it can be compiled.
        n_tasks: unique tasks of the dense network, in all forms.
        n_rows: subgraphs.
        trial_s: seconds of a trial on the device; 0 where nothing was timed.
    """

    forms: tuple[str, ...] = ()
    n_tasks: int = 0
    n_rows: int = 0
    trial_s: float = 0.0


def check_compiled(
    settings: CheckSettings,
    model: nn.Module,
    coupled: CoupledGroups,
    example: torch.Tensor,
    progress: ProgressLog,
) -> tuple[list[Finding], TrialCosts]:
    """Export a network, compare its forms with torch at random plans, and time one of these.

    Raises:
        CPruneError: the network cannot be exported, or the device is gone.
    """
    from cprune_rl.compiler.deploy.plain_build import form_names
    from cprune_rl.pipeline.preflight.forms import check_forms, random_plans

    with contextlib.ExitStack() as stack:
        device = None
        if settings.device is not None:
            device = stack.enter_context(open_device(settings.device))
        with progress.track("Finding tasks", None):
            variants = _lower(settings.network, model, coupled, example, device)
        findings = [_forms_finding(variants)]
        names = form_names(variants)
        plans = random_plans(variants.network, settings.n_plans, settings.seed)
        if plans:
            with progress.track("Compiling it and comparing it with torch", len(names)) as advance:
                found = check_forms(variants, model, coupled, example=example, plans=plans)
                for done, finding in enumerate(found, start=1):
                    findings.append(finding)
                    advance(done)
        dense = variants.workloads(variants.network.dense)
        costs = TrialCosts(
            forms=names,
            n_tasks=len({workload.key for workloads in dense for workload in workloads}),
            n_rows=len(variants.network.subgraphs),
        )
        if device is None or not plans or any(finding.status == "failed" for finding in findings):
            return findings, costs
        with progress.track("Running every task on the device", None):
            finding, trial_s = _try_tasks(variants, plans[0], device, settings.storage)
        return [*findings, finding], TrialCosts(**{**vars(costs), "trial_s": trial_s})


def _lower(
    name: str,
    model: nn.Module,
    coupled: CoupledGroups,
    example: torch.Tensor,
    device: RpcDevice | None,
) -> LayoutVariants:
    from cprune_rl.compiler.devices.target import make_target
    from cprune_rl.compiler.export.exported_network import ExportedNetwork
    from cprune_rl.compiler.layouts.variants import find_layout_variants

    target = make_target(os.cpu_count() or 1) if device is None else device.target
    exported = ExportedNetwork.export(model, example, coupled.axes, target, coupled.written)
    return find_layout_variants(name, exported, coupled.groups, coupled.unprunable)


def _forms_finding(variants: LayoutVariants) -> Finding:
    n_subgraphs = len(variants.network.subgraphs)
    if variants.note:
        found = f"{n_subgraphs} subgraphs; {variants.note}"
        return Finding(what="export", found=found, status="warning")
    return Finding(what="export", found=f"{n_subgraphs} subgraphs")


def _try_tasks(
    variants: LayoutVariants, plan: Plan, device: RpcDevice, storage: str | None
) -> tuple[Finding, float]:
    """Time two schedules of every task of a plan; also give the seconds of a trial."""
    from cprune_rl.compiler.tuning.network_tuner import NetworkTuner

    tuning = TuningSettings(survey=_TWO_TRIALS, dense=_TWO_TRIALS, near=_TWO_TRIALS)
    with contextlib.closing(open_store(storage or default_url())) as store:
        tuner = NetworkTuner(variants, device, store, tuning)
        costs = tuner.measure(plan)
        spending = tuner.spending
    n_trials = spending.fresh_trials + spending.cached_trials
    trial_s = _USUAL_TRIAL_S
    if spending.fresh_trials:
        trial_s = spending.measure_s / spending.fresh_trials
    errors = [
        f"{subgraph.name}: {cost.error}"
        for subgraph, cost in zip(variants.network.subgraphs, costs, strict=True)
        if cost.error is not None or not math.isfinite(cost.latency_s)
    ]
    what = f"tasks on {device.name}"
    if errors:
        found = f"{len(errors)} of {len(costs)} do not run: " + "; ".join(errors[:_ERRORS_SHOWN])
        return Finding(what=what, found=found, status="failed"), trial_s
    total_ms = sum(cost.latency_s for cost in costs) * 1e3
    found = f"all run at a random plan ({n_trials} trials; their sum untuned: {total_ms:.2f} ms)"
    return Finding(what=what, found=found), trial_s


_USUAL_TRIAL_S = 0.3  # where the cost cache held every trial
