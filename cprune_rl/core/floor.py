"""What a floor means: the accuracy that a pruned network must hold.

`Problem.holds` compares a step with it, `accuracy.final_gate` the finished network.
"""

from __future__ import annotations

from cprune_rl.errors import FloorError

__all__ = ["resolve_floor"]


def resolve_floor(floor: float, dense_accuracy: float, may_exceed: bool = False) -> float:
    """Turn a floor as a user gives it into the accuracy that must hold.

    Args:
        floor: relative to the dense network where it is 0 or less (-0.01 is one point below it),
            else absolute.
        dense_accuracy: of the dense network, in [0, 1].
        may_exceed: allow an absolute floor above the dense network's accuracy. Images that the
            search did not use may show one: the report says so.

    Raises:
        FloorError: it is outside [-1, 1], or above the dense network's accuracy.
    """
    if not -1.0 <= floor <= 1.0:
        raise FloorError(
            f"floor {floor} is no accuracy: give one in (0, 1], "
            "or -0.01 for one point below the dense network"
        )
    absolute = dense_accuracy + floor if floor <= 0 else floor
    if absolute > dense_accuracy and not may_exceed:
        raise FloorError(
            f"floor {absolute:.4f} is above the dense network's accuracy {dense_accuracy:.4f}: "
            "give a lower one, or train the network further"
        )
    return max(0.0, absolute)
