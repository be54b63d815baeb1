"""A scheme for each layer by rule, after the rule-based mapping of Gong et al. (2021).

Their paper is "Automatic Mapping of the Best-Suited DNN Pruning Schemes". There is no training and
no search over layers: a table of latencies on this device decides. Each layer takes the smallest
block whose latency is within a tolerance of the fastest one's, because small blocks lose least
accuracy. It stays dense where no block is faster. On hard data, 3x3 kernels take patterns, as
published, where those are within the tolerance.

Two things are not published. A layer takes whole kernels where they are so much faster than blocks
of as many entries that a larger loss may be worth it: Winograd's filtering can leave out kernels,
and no single entries. All layers that are pruned have one density, which is lowered as far as the
floor allows: the paper finds densities by regularised training. The rule may begin with a network
whose channels were pruned before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import KINDS, MAX_PATTERN_DENSITY, Scheme
from cprune_rl.core.search_result import TABLE_PREFIX, SearchStep
from cprune_rl.envs.actions.scheme_actions import (
    ALL_CHANNELS,
    SCHEME_SHAPES,
    SchemeShape,
    prunable_layers,
)

__all__ = ["MappingRule"]

_REFERENCE = 0.25  # density at which shapes are compared
# Whole kernels must be so many times as fast as blocks of the same density: they lose as much as
# blocks that are so much sparser (`loss_model.scheme_penalty`).
_KERNELS_WORTH = 1.8
_DENSITIES = (0.7, 0.5, 0.35, 0.25, 0.175, 0.125, 0.09)
_BISECTIONS = 2
_HARD = 0.8  # accuracy of the dense network below which data counts as hard


@dataclass(frozen=True)
class MappingRule(SessionSearcher):
    """Maps layers to schemes by a table of latencies, then lowers the density.

    Attributes:
        tolerance: by how much a small block may be slower than the coarse one, as a share.
    """

    tolerance: float = 0.1

    name = "mapping-rule"

    def run(self, session: SearchSession) -> None:
        """Map, then lower the density."""
        start = session.problem.start_plan
        if start != session.problem.network.dense and not session.is_spent:
            session.try_once(start, "pruned channels")
        if session.is_spent:
            return
        mapping = self._map_layers(session)
        if mapping:
            _lower_density(session, mapping)

    def _map_layers(self, session: SearchSession) -> dict[str, Scheme]:
        """Choose the scheme of each layer that is to be pruned, at the reference density."""
        problem = session.problem
        start = problem.start_plan
        dense_s = [c.latency_s for c in problem.latency.measure(start)]
        table = _measure_table(session)
        mapping: dict[str, Scheme] = {}
        reasons = []
        for layer, at in problem.network.scheme_layers.items():
            seconds = {shape: row[layer] for shape, row in table.items() if layer in row}
            scheme, why = self._choose(dense_s[at], seconds)
            reasons.append(f"{layer}: {why}")
            if scheme is not None:
                mapping[layer] = scheme
        session.record(
            SearchStep(
                plan=start,
                what=f"{TABLE_PREFIX}what it says",
                latency_s=sum(dense_s),
                why="; ".join(reasons) or "no layer of this network can be pruned by a scheme",
            )
        )
        return mapping

    def _choose(
        self, dense_s: float, seconds: Mapping[SchemeShape, float]
    ) -> tuple[Scheme | None, str]:
        """Choose a layer's scheme, None where it stays dense, and say why."""
        if not seconds:
            return None, "dense, nothing was tried within the budget"
        candidates: dict[str, SchemeShape] = {}
        for kind in KINDS:
            smallest = self._smallest(kind, dense_s, seconds)
            if smallest is not None:
                candidates[kind] = smallest
        if not candidates:
            share = min(seconds.values()) / dense_s
            return None, f"dense, the fastest scheme takes {share:.2f} of it"
        shape = candidates.get("pattern") or candidates.get("block") or candidates["kernel"]
        kernels = candidates.get("kernel")
        if kernels is not None and seconds[kernels] * _KERNELS_WORTH < seconds[shape]:
            shape = kernels
        why = [f"{_describe(shape)}", f"{seconds[shape] / dense_s:.2f} of dense"]
        for other in candidates.values():
            if other != shape:
                why.append(f"{_describe(other)} {seconds[other] / dense_s:.2f}")
        return Scheme(*shape, _REFERENCE), ", ".join(why)

    def _smallest(
        self, kind: str, dense_s: float, seconds: Mapping[SchemeShape, float]
    ) -> SchemeShape | None:
        """Find the smallest block of a kind that is faster than dense and about as fast as any.

        Patterns are compared with blocks.
        """
        rivals = "block" if kind == "pattern" else kind
        fastest_s = min(
            (s for shape, s in seconds.items() if shape.kind == rivals), default=math.inf
        )
        limit_s = (1 + self.tolerance) * fastest_s
        for shape in sorted(shape for shape in seconds if shape.kind == kind):
            if seconds[shape] < dense_s and seconds[shape] <= limit_s:
                return shape
        return None


def _measure_table(session: SearchSession) -> dict[SchemeShape, dict[str, float]]:
    """Measure each shape of scheme on all layers that it fits: seconds of each layer."""
    problem = session.problem
    table: dict[SchemeShape, dict[str, float]] = {}
    for shape in SCHEME_SHAPES:
        layers = prunable_layers(problem.network, shape.kind)
        is_for_hard_data = shape.kind == "pattern"
        if is_for_hard_data and problem.dense_accuracy >= _HARD:
            continue
        if session.is_spent or not layers:
            continue
        scheme = Scheme(*shape, _REFERENCE)
        plan = _with_schemes(problem.start_plan, dict.fromkeys(layers, scheme))
        seconds = [c.latency_s for c in problem.latency.measure(plan)]
        table[shape] = {layer: seconds[problem.network.scheme_layers[layer]] for layer in layers}
        what = f"{TABLE_PREFIX}{_describe(shape)}"
        session.record(SearchStep(plan=plan, what=what, latency_s=sum(seconds)))
    return table


def _lower_density(session: SearchSession, mapping: Mapping[str, Scheme]) -> None:
    """Try one density after the other until the floor is missed, then between the last two."""
    start = session.problem.start_plan
    start_s = session.problem.measured_s(start)

    def holds(density: float) -> bool:
        schemes = {layer: _at_density(scheme, density) for layer, scheme in mapping.items()}
        step = session.try_once(
            _with_schemes(start, schemes), f"density {density:.0%}", only_if_faster_than=start_s
        )
        # Where it is slower than the start, only a lower density can be faster.
        return step.accepted or step.accuracy is None

    held = 1.0
    missed = 0.0
    for density in _DENSITIES:
        if session.is_spent:
            return
        if not holds(density):
            missed = density
            break
        held = density
    for _ in range(_BISECTIONS if missed else 0):
        if session.is_spent:
            return
        between = math.sqrt(held * missed)
        if holds(between):
            held = between
        else:
            missed = between


def _at_density(scheme: Scheme, density: float) -> Scheme:
    """Set another density, as far as the kind goes; of few digits, for a plan holds its text."""
    most = MAX_PATTERN_DENSITY if scheme.kind == "pattern" else 1.0
    return replace(scheme, density=min(round(density, 4), math.floor(1e4 * most) / 1e4))


def _describe(shape: SchemeShape) -> str:
    size = "all" if shape.block == ALL_CHANNELS else str(shape.block)
    return f"{shape.kind} of {size} channels"


def _with_schemes(plan: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    return replace(plan, schemes=tuple((layer, str(scheme)) for layer, scheme in schemes.items()))
