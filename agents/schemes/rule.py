"""A scheme for each layer by rule, after the rule-based mapping of Gong et al.

("Automatic Mapping of the Best-Suited DNN Pruning Schemes", 2021).

No training and no search over layers: a table of latencies on this device decides. Each layer takes
the smallest block
whose latency is within a tolerance of the fastest one's, because small blocks lose least accuracy;
it stays dense where no
block is faster. On hard data 3x3 kernels take patterns, as published, where those are within the
tolerance. Not published: whole
kernels, where they are so much faster than blocks of as many entries that a larger loss may be
worth it (Winograd's filtering can
leave out kernels, and no single entries). All layers that are pruned have one density, which is
lowered as far as the floor
allows: the paper finds densities by regularised training instead. May begin with a network whose
    channels were pruned before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import KINDS, MAX_PATTERN_DENSITY, Scheme
from cprune_rl.core.search_result import TABLE_PREFIX, SearchResult, SearchStep
from cprune_rl.envs.actions.layer_schemes import (
    ALL_CHANNELS,
    SCHEME_SHAPES,
    SchemeShape,
    prunable_layers,
)
from cprune_rl.envs.problem import Problem

__all__ = ["MappingRule"]

_REFERENCE = 0.25  # density at which shapes are compared
# times as fast as blocks of the same density must whole kernels be: they lose as much as blocks
# that are so much sparser (`losses.scheme_penalty`)
_KERNELS_WORTH = 1.8
_DENSITIES = (0.7, 0.5, 0.35, 0.25, 0.175, 0.125, 0.09)
_BISECTIONS = 2
_HARD = 0.8  # accuracy of the dense network below which data counts as hard


class MappingRule:
    """See the module (and `searcher.Searcher`).

    Args:
        tolerance: by how much a small block may be slower than the coarse one.
    """

    name = "mapping-rule"

    def __init__(self, tolerance: float = 0.1) -> None:
        self._tolerance = tolerance

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Maps, then lowers the density (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        start = problem.start_plan
        if start != problem.network.dense and not looks.session.is_spent:
            looks.take(start, "pruned channels")
        if not looks.session.is_spent:
            self._lower(looks, start, self._mapping(looks, start))
        return looks.session.result(self.name)

    def _mapping(self, looks: Looks, start: Plan) -> dict[str, Scheme]:
        """Of each layer that is to be pruned its scheme, at the reference density;

        of every layer it is told why.
        """
        problem, network = looks.problem, looks.problem.network
        dense = [c.latency_s for c in problem.latency.measure(start)]
        tried: dict[SchemeShape, dict[str, float]] = {}
        for shape in (
            SCHEME_SHAPES
            if problem.dense_accuracy < _HARD
            else (s for s in SCHEME_SHAPES if s.kind != "pattern")
        ):
            layers = {
                layer: network.scheme_layers[layer]
                for layer in prunable_layers(network, shape.kind)
            }
            if looks.session.is_spent or not layers:
                continue
            plan = _with_schemes(start, {layer: Scheme(*shape, _REFERENCE) for layer in layers})
            costs = [c.latency_s for c in problem.latency.measure(plan)]
            tried[shape] = {layer: costs[at] for layer, at in layers.items()}
            looks.session.record(
                SearchStep(plan, f"{TABLE_PREFIX}{_named(shape)}", math.fsum(costs), None, False)
            )
        found, reasons = {}, []
        for layer, at in network.scheme_layers.items():
            scheme, why = self._rule(
                dense[at],
                {
                    shape: of_layers[layer]
                    for shape, of_layers in tried.items()
                    if layer in of_layers
                },
            )
            reasons.append(f"{layer}: {why}")
            if scheme is not None:
                found[layer] = scheme
        told = "; ".join(reasons) or "no layer of this network can be pruned by a scheme"
        looks.session.record(
            SearchStep(
                start, f"{TABLE_PREFIX}what it says", math.fsum(dense), None, False, why=told
            )
        )
        return found

    def _rule(
        self, dense_s: float, tried: Mapping[SchemeShape, float]
    ) -> tuple[Scheme | None, str]:
        """A layer's scheme, None where it stays dense, and why."""
        if not tried:
            return None, "dense, nothing was tried within the budget"
        candidates = {
            kind: shape
            for kind in KINDS
            if (shape := self._smallest(kind, dense_s, tried)) is not None
        }
        if not candidates:
            return (
                None,
                f"dense, the fastest scheme takes {min(tried.values()) / dense_s:.2f} of it",
            )
        shape = candidates.get("pattern") or candidates.get("block") or candidates["kernel"]
        kernels = candidates.get("kernel")
        if kernels is not None and tried[kernels] * _KERNELS_WORTH < tried[shape]:
            shape = kernels
        others = ", ".join(
            f"{_named(s)} {tried[s] / dense_s:.2f}" for s in candidates.values() if s != shape
        )
        return Scheme(
            *shape, _REFERENCE
        ), f"{_named(shape)}, {tried[shape] / dense_s:.2f} of dense{', ' if others else ''}{others}"

    def _smallest(
        self, kind: str, dense_s: float, tried: Mapping[SchemeShape, float]
    ) -> SchemeShape | None:
        """The smallest block of a kind that is faster than dense and about as fast as the kind's
        fastest; patterns are set beside blocks.
        """
        seconds = {shape: s for shape, s in tried.items() if shape.kind == kind}
        fastest = min(
            (
                s
                for shape, s in tried.items()
                if shape.kind == ("block" if kind == "pattern" else kind)
            ),
            default=math.inf,
        )
        return next(
            (
                shape
                for shape in sorted(seconds)
                if seconds[shape] < dense_s and seconds[shape] <= (1 + self._tolerance) * fastest
            ),
            None,
        )

    def _lower(self, looks: Looks, start: Plan, mapping: Mapping[str, Scheme]) -> None:
        """Looks at one density after the other, until the floor is missed, then between the last
        two.
        """
        if not mapping:
            return
        start_s = math.fsum(c.latency_s for c in looks.problem.latency.measure(start))
        held, missed = 1.0, 0.0

        def holds(density: float) -> bool:
            step = looks.take(
                _with_schemes(
                    start, {layer: _at(scheme, density) for layer, scheme in mapping.items()}
                ),
                f"density {density:.0%}",
                below_s=start_s,
            )
            return (
                step.accepted or step.accuracy is None
            )  # slower than the start: only a lower density can be faster

        for density in _DENSITIES:
            if looks.session.is_spent:
                return
            if holds(density):
                held = density
            else:
                missed = density
                break
        for _ in range(_BISECTIONS if missed else 0):
            if looks.session.is_spent:
                return
            between = math.sqrt(held * missed)
            held, missed = (between, missed) if holds(between) else (held, between)


def _at(scheme: Scheme, density: float) -> Scheme:
    """At another density, as far as its kind goes;

    with few digits, because its text is what a plan holds.
    """
    most = MAX_PATTERN_DENSITY if scheme.kind == "pattern" else 1.0
    return replace(scheme, density=min(round(density, 4), math.floor(1e4 * most) / 1e4))


def _named(shape: SchemeShape) -> str:
    return f"{shape.kind} of {'all channels' if shape.block == ALL_CHANNELS else f'{shape.block} channels'}"


def _with_schemes(plan: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    return replace(plan, schemes=tuple((layer, str(scheme)) for layer, scheme in schemes.items()))
