"""A problem as a model has it, as in model-based reinforcement learning.

Predictions stand for measurements, and expected losses for an oracle's answers. Walking through it
costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from cprune_rl.core.loss_model import LossModel
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.latency.sources import OverriddenLatency

__all__ = ["model_problem"]


def model_problem(problem: Problem, loss_model: LossModel) -> Problem:
    """Make the problem one with nothing left to pay for.

    Args:
        problem: whose predicted latencies are believed.
        loss_model: what each group and layer is believed to lose.
    """
    return replace(
        problem,
        latency=OverriddenLatency(problem.network, problem.latency),
        oracle=LossModelOracle(problem.network, loss_model, problem.dense_accuracy),
        loss_model=loss_model,
    )
