"""A problem as a model has it:

what is predicted stands for what would be measured, what is expected for what an oracle would say.

Walking through it costs nothing: no look at the device, no evaluation.
"""

from __future__ import annotations

from dataclasses import replace

from cprune_rl.core.loss_model import LossModel
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.latency.sources import OverriddenLatency

__all__ = ["model_problem"]


def model_problem(problem: Problem, loss_model: LossModel) -> Problem:
    """The problem with nothing left to pay for.

    Args:
        problem: whose cheap looks are believed.
        loss_model: what each group is believed to lose.
    """
    oracle = LossModelOracle(problem.network, loss_model, problem.dense_accuracy)
    predictions = OverriddenLatency(problem.network, problem.latency)
    return replace(problem, latency=predictions, oracle=oracle, loss_model=loss_model)
