"""A scheme for each layer by rule, after the rule-based mapping of Gong et al. ("Automatic Mapping of the Best-Suited DNN Pruning Schemes", 2021).

No training and no search over layers: a table of latencies on this device decides. Each layer takes the smallest block
whose latency is within a tolerance of the coarse one's, because small blocks lose least accuracy; it stays dense where no
block is faster. On hard data 3x3 kernels take patterns, as published, where those are within the tolerance. All layers
that are pruned have one density, which is lowered as far as the floor allows: the paper finds densities by regularised
training instead. May begin with a network whose channels were pruned before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from cprune_rl.agents.guard import search_within
from cprune_rl.agents.looks import Looks
from cprune_rl.agents.searcher import TABLE, Budget, Meter, OnStep, Searcher, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.schemes import MOST_OF_PATTERNS, Scheme
from cprune_rl.table import Plan

__all__ = ["ChannelsThenBlocks", "MappingRule"]

_SIZES = (4, 8, 16, 32)
_COARSE = 1 << 20  # more channels than any layer has: one block
_REFERENCE = 0.25  # density at which block sizes are compared
_DENSITIES = (0.7, 0.5, 0.35, 0.25, 0.175, 0.125, 0.09)
_BISECTIONS = 2
_HARD = 0.8  # accuracy of the dense network below which data counts as hard


class MappingRule:
    """See the module (and `searcher.Searcher`).

    Args:
        tolerance: by how much a small block may be slower than the coarse one.
        start: a plan of pruned channels to begin with; the dense one where not given.
    """

    name = "mapping-rule"

    def __init__(self, tolerance: float = 0.1, start: Plan | None = None) -> None:
        self._tolerance, self._start = tolerance, start

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """Maps, then lowers the density (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        start = self._start or problem.network.dense
        if start != problem.network.dense and not looks.meter.is_spent:
            looks.take(start, "pruned channels")
        if not looks.meter.is_spent:
            self._lower(looks, start, self._mapping(looks, start))
        return looks.meter.result(self.name)

    def _mapping(self, looks: Looks, start: Plan) -> dict[str, Scheme]:
        """Of each layer that is to be pruned its scheme, at the reference density; of every layer it is told why."""
        problem, network = looks.problem, looks.problem.network
        dense = [c.latency_s for c in problem.latency.measure(start)]
        tried: dict[tuple[str, int], dict[str, float]] = {}
        for kind in ("block", "pattern") if problem.dense_accuracy < _HARD else ("block",):
            layers = {layer: at for layer, at in network.blocked_layers.items() if kind == "block" or network.has_3x3_kernels(at)}
            for size in (_COARSE, *reversed(_SIZES)) if kind == "block" else _SIZES:
                if looks.meter.is_spent or not layers:
                    break
                plan = _with_schemes(start, {layer: Scheme(kind, size, _REFERENCE) for layer in layers})
                costs = [c.latency_s for c in problem.latency.measure(plan)]
                tried[kind, size] = {layer: costs[at] for layer, at in layers.items()}
                looks.meter.record(SearchStep(plan, f"{TABLE}{kind} of {_named(size)}", math.fsum(costs), None, False))
        found, reasons = {}, []
        for layer, at in network.blocked_layers.items():
            scheme, why = self._rule(dense[at], {k: of_layers[layer] for k, of_layers in tried.items() if layer in of_layers})
            reasons.append(f"{layer}: {why}")
            if scheme is not None:
                found[layer] = scheme
        told = "; ".join(reasons) or "no layer of this network can be pruned by a scheme"
        looks.meter.record(SearchStep(start, f"{TABLE}what it says", math.fsum(dense), None, False, why=told))
        return found

    def _rule(self, dense_s: float, tried: Mapping[tuple[str, int], float]) -> tuple[Scheme | None, str]:
        """A layer's scheme, None where it stays dense, and why."""
        if not tried:
            return None, "dense, no block was tried within the budget"
        coarse_s = tried.get(("block", _COARSE), math.inf)
        limit_s = (1 + self._tolerance) * coarse_s
        for kind, sizes in (("pattern", _SIZES), ("block", (*_SIZES, _COARSE))):
            for size in sizes:
                seconds = tried.get((kind, size), math.inf)
                if seconds < dense_s and seconds <= limit_s:
                    return Scheme(kind, size, _REFERENCE), f"{kind} of {_named(size)}, {seconds / dense_s:.2f} of dense, the coarse one {coarse_s / dense_s:.2f}"
        return None, f"dense, the fastest block takes {min(tried.values()) / dense_s:.2f} of it"

    def _lower(self, looks: Looks, start: Plan, mapping: Mapping[str, Scheme]) -> None:
        """Looks at one density after the other, until the floor is missed, then between the last two."""
        if not mapping:
            return
        start_s = math.fsum(c.latency_s for c in looks.problem.latency.measure(start))
        held, missed = 1.0, 0.0

        def holds(density: float) -> bool:
            step = looks.take(_with_schemes(start, {layer: _at(scheme, density) for layer, scheme in mapping.items()}), f"density {density:.0%}", below_s=start_s)
            return step.accepted or step.accuracy is None  # slower than the start: only a lower density can be faster

        for density in _DENSITIES:
            if looks.meter.is_spent:
                return
            if holds(density):
                held = density
            else:
                missed = density
                break
        for _ in range(_BISECTIONS if missed else 0):
            if looks.meter.is_spent:
                return
            between = math.sqrt(held * missed)
            held, missed = (between, missed) if holds(between) else (held, between)


class ChannelsThenBlocks:
    """Prunes channels with a share of the slack and of the budget, then what is left in blocks (see `searcher.Searcher`).

    Args:
        channels: the first search.
        share: of slack and budget that it may use.
    """

    name = "channels-then-blocks"

    def __init__(self, channels: Searcher, share: float = 0.5) -> None:
        self._channels, self._share = channels, share

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """One after the other (see `searcher.Searcher`); whatever holds the problem's own floor is an answer."""
        meter = Meter(problem, budget, on_step)
        meter.start(math.fsum(c.latency_s for c in problem.latency.measure(problem.network.dense)))

        def note(step: SearchStep) -> None:
            if step.accepted and any(step.plan == a.plan for a in meter.accepted):
                return  # where the second search begins
            holds = step.accuracy is not None and math.isfinite(step.latency_s) and step.accuracy >= problem.floor
            meter.record(replace(step, accepted=step.accepted or holds))

        slack = problem.dense_accuracy - problem.floor
        first, _ = search_within(self._channels, replace(problem, floor=problem.dense_accuracy - self._share * slack), budget.part(self._share), note)
        MappingRule(start=first.best.plan).search(problem, meter.left, note)
        return meter.result(self.name)


def _at(scheme: Scheme, density: float) -> Scheme:
    """At another density, as far as its kind goes; with few digits, because its text is what a plan holds."""
    most = MOST_OF_PATTERNS if scheme.kind == "pattern" else 1.0
    return replace(scheme, density=min(round(density, 4), math.floor(1e4 * most) / 1e4))


def _named(size: int) -> str:
    return "all channels" if size == _COARSE else f"{size} channels"


def _with_schemes(plan: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    return replace(plan, schemes=tuple((layer, str(scheme)) for layer, scheme in schemes.items()))
