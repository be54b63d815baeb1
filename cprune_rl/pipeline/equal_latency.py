"""Draws random plans of equal latency: nothing but accuracy tells them apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource
from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, Scheme
from cprune_rl.envs.actions.scheme_actions import SCHEME_SHAPES, prunable_layers

__all__ = ["equal_latency_plans"]

_TOLERANCE = 0.03  # of the latency that is asked for
_TRIES_EACH = 40  # directions for each plan that is asked for
_N_BISECTIONS = 18
_LARGEST_EXPONENT = 6.0
_SPREAD = 0.6  # of the logarithms of how fast groups, or layers, are pruned
_SPARSEST = 0.03  # density

Direction = Callable[[float], Plan]
"""Gives ever smaller plans for a rising exponent of the kept ratio or of the density."""


def equal_latency_plans(
    network: Network,
    latency: LatencySource,
    share: float,
    *,
    count: int,
    seed: int,
    by_schemes: bool = False,
) -> list[Plan]:
    """Draw plans whose predicted latency is the same share of the dense network's.

    They agree within 3 % where there are enough such plans.

    Args:
        share: of the dense latency, in (0, 1).
        by_schemes: whether layers are pruned by schemes instead of groups by channels.
    """
    rng = np.random.default_rng(seed)
    direct = _scheme_direction if by_schemes else _channel_direction

    def predict_s(plan: Plan) -> float:
        return sum(cost.latency_s for cost in latency.predict(network.workloads(plan)))

    wanted_s = share * predict_s(network.dense)
    plans: list[Plan] = []
    nearest: list[tuple[float, Plan]] = []
    for _ in range(_TRIES_EACH * count):
        plan = _bisect(direct(network, rng), predict_s, wanted_s)
        error = abs(predict_s(plan) / wanted_s - 1)
        nearest.append((error, plan))
        if error <= _TOLERANCE and plan not in plans:
            plans.append(plan)
        if len(plans) == count:
            return plans
    plans += [plan for _, plan in sorted(nearest, key=lambda item: item[0])]
    return list(dict.fromkeys(plans))[:count]


def _bisect(direction: Direction, predict_s: Callable[[Plan], float], wanted_s: float) -> Plan:
    """Go so far in a direction that the plan takes the time that is wanted."""
    low = 0.0
    high = _LARGEST_EXPONENT
    for _ in range(_N_BISECTIONS):
        middle = (low + high) / 2
        plan = direction(middle)
        if predict_s(plan) > wanted_s:
            low = middle
        else:
            high = middle
    return plan


def _channel_direction(network: Network, rng: np.random.Generator) -> Direction:
    """Narrow every group, each at its own pace."""
    channels = np.array([group.channels for group in network.groups])
    minimum = np.array([group.minimum for group in network.groups])
    pace = np.exp(rng.normal(0.0, _SPREAD, len(channels)))

    def plan(exponent: float) -> Plan:
        widths = np.round(channels * np.exp(-exponent * pace))
        return Plan(tuple(int(width) for width in np.clip(widths, minimum, channels)))

    return plan


def _scheme_direction(network: Network, rng: np.random.Generator) -> Direction:
    """Make every layer sparser, each by a shape of its own and at its own pace."""
    shapes = {}
    for layer in network.scheme_layers:
        allowed = [
            shape for shape in SCHEME_SHAPES if layer in prunable_layers(network, shape.kind)
        ]
        shapes[layer] = allowed[int(rng.integers(len(allowed)))]
    paces = np.exp(rng.normal(0.0, _SPREAD, len(shapes)))

    def plan(exponent: float) -> Plan:
        schemes = []
        for (layer, shape), pace in zip(shapes.items(), paces, strict=True):
            density = round(max(float(np.exp(-exponent * pace)), _SPARSEST), 3)
            most = MAX_PATTERN_DENSITY if shape.kind == "pattern" else 1.0
            if density < most:
                schemes.append((layer, str(Scheme(shape.kind, shape.block, density))))
        return Plan(network.dense.widths, tuple(schemes))

    return plan
