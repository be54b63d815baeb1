"""A scheme for each layer by rule, after the rule-based mapping of Gong et al. ("Automatic Mapping of the Best-Suited DNN Pruning Schemes", 2021).

No training and no search over layers: a table of latencies on this device decides. Each layer takes the smallest block
whose latency is within a tolerance of the coarse one's, because small blocks lose least accuracy; it stays dense where no
block is faster. On hard data 3x3 kernels take patterns, as published, where those are within the tolerance. All layers
that are pruned have one density, which is lowered as far as the floor allows: the paper finds densities by regularised
training instead. May begin with a network whose channels were pruned before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cprune_rl.agents.looks import Looks
from cprune_rl.agents.searcher import Budget, OnStep, Searcher, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.schemes import Scheme
from cprune_rl.table import Network, Plan

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
        if problem.network.blocked_layers and not looks.meter.is_spent:
            self._lower(looks, start, *self._mapping(looks, start))
        return looks.meter.result(self.name)

    def _mapping(self, looks: Looks, start: Plan) -> tuple[dict[str, Scheme], list[str]]:
        """Of each layer that is to be pruned its scheme, at the reference density, and of every layer why."""
        problem, network = looks.problem, looks.problem.network
        dense = [c.latency_s for c in problem.latency.measure(start)]
        kinds = ["block", "pattern"] if problem.dense_accuracy < _HARD else ["block"]
        tried: dict[tuple[str, int], list[float]] = {}
        for kind in kinds:
            for size in (_COARSE, *reversed(_SIZES)) if kind == "block" else _SIZES:
                if looks.meter.is_spent:
                    break
                layers = [layer for layer, at in network.blocked_layers.items() if kind == "block" or network.subgraphs[at].template.operator.kernel == 3]
                plan = _with_schemes(start, {layer: Scheme(kind, size, _REFERENCE) for layer in layers})
                tried[kind, size] = [c.latency_s for c in problem.latency.measure(plan)]
                total = sum(tried[kind, size])
                size_text = "all channels" if size == _COARSE else f"{size} channels"
                looks.meter.record(SearchStep(plan, f"{kind}s of {size_text}, for the table of latencies", total, None, False))
        found, reasons = {}, []
        for layer, at in network.blocked_layers.items():
            scheme, why = self._rule(layer, at, dense[at], {k: v[at] for k, v in tried.items()}, network)
            reasons.append(why)
            if scheme is not None:
                found[layer] = scheme
        return found, reasons

    def _rule(self, layer: str, at: int, dense_s: float, tried: Mapping[tuple[str, int], float], network: Network) -> tuple[Scheme | None, str]:
        """A layer's scheme, and why; None where it stays dense."""
        coarse_s = tried.get(("block", _COARSE), dense_s)
        limit_s = min((1 + self._tolerance) * coarse_s, dense_s)
        for kind, sizes in (("pattern", _SIZES), ("block", (*_SIZES, _COARSE))):
            if kind == "pattern" and network.subgraphs[at].template.operator.kernel != 3:
                continue
            for size in sizes:
                if (seconds := tried.get((kind, size))) is not None and seconds < dense_s and seconds <= limit_s:
                    width = f"{kind} of {'all' if size == _COARSE else size}"
                    return Scheme(kind, size, _REFERENCE), f"{layer}: {width}, {seconds / dense_s:.2f} of dense; coarse {coarse_s / dense_s:.2f}"
        return None, f"{layer}: dense, no block is faster"

    def _lower(self, looks: Looks, start: Plan, mapping: Mapping[str, Scheme], reasons: Sequence[str]) -> None:
        """Looks at one density after the other, until the floor is missed, then between the last two; the reasons are told with the first."""
        if not mapping:
            return
        held, missed, told = 1.0, 0.0, iter(["; ".join(reasons)])

        def holds(density: float) -> bool:
            plan = _with_schemes(start, {layer: replace(scheme, density=round(density, 4)) for layer, scheme in mapping.items()})
            step = looks.take(plan, f"density {density:.0%}", next(told, ""), below_s=looks.dense_s)
            return step.accepted or step.accuracy is None  # slower than dense: only a lower density can be faster

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
            between = (held * missed) ** 0.5
            held, missed = (between, missed) if holds(between) else (held, between)


class ChannelsThenBlocks:
    """Prunes channels with a share of the slack, then what is left in blocks (see `searcher.Searcher`).

    Args:
        channels: the first search.
        share: of the slack that it may use.
    """

    name = "channels-then-blocks"

    def __init__(self, channels: Searcher, share: float = 0.5) -> None:
        self._channels, self._share = channels, share

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """One after the other (see `searcher.Searcher`)."""
        slack = problem.dense_accuracy - problem.floor
        first = self._channels.search(replace(problem, floor=problem.dense_accuracy - self._share * slack), budget, on_step)
        left = Budget(
            None if budget.fresh_trials is None else max(0, budget.fresh_trials - int(first.cost["fresh_trials"])),
            None if budget.accuracy_evaluations is None else max(0, budget.accuracy_evaluations - int(first.cost["accuracy_evaluations"])),
            None if budget.minutes is None else max(0.0, budget.minutes - first.cost["wall_s"] / 60),
        )
        second = MappingRule(start=first.best.plan).search(problem, left, on_step)
        known = {a.plan for a in first.accepted}
        accepted = (*first.accepted, *(a for a in second.accepted if a.plan not in known))
        cost = {name: value + second.cost.get(name, 0.0) for name, value in first.cost.items()}
        return SearchResult(self.name, accepted, (*first.history, *second.history), cost)


def _with_schemes(plan: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    return replace(plan, schemes=tuple((layer, str(scheme)) for layer, scheme in schemes.items()))
