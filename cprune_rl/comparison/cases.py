"""What is compared on: a problem with a seed, its replay, and what a run would keep of a search.

Searches are compared in replays of recorded problems (`envs.problems.replay`), where each pays as it
would pay on a device. The
plan that counts is the one that a run would keep: the fastest accepted one that truly holds the
floor, backed off to by a few
full fine-tunes. Called by `runner` and `validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cprune_rl.agents.core.pareto import back_off, pareto_front
from cprune_rl.comparison.records import Case
from cprune_rl.core.search_result import AcceptedPlan
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.envs.problems.registry import read_recording, without_floor
from cprune_rl.envs.problems.replay import Replay, open_replay

__all__ = ["EVALUATION_S", "FINETUNE_S", "TRIAL_S", "Losses", "kept", "make_cases", "open_case"]

Losses = Literal["drawn", "recorded"]
# Seconds of the live runs that the recordings' device class had (docs/results/resnet8.json): what a
# replay would have taken.
TRIAL_S = 0.32
EVALUATION_S = 2.4
FINETUNE_S = 48.0


def open_case(
    case: Case,
    warm_start: bool = True,
    perfect_information: bool = False,
    with_schemes: bool = False,
) -> Replay:
    """Opens a case anew, with nothing spent.

    Args:
        case: what is compared on.
        warm_start: see `envs.problems.replay.open_replay`.
        perfect_information: see there.
        with_schemes: see there.
    """
    losses: Losses = "recorded" if case.losses == "recorded" else "drawn"
    return open_replay(
        case.problem,
        case.floor,
        case.seed,
        warm_start,
        perfect_information,
        losses=losses,
        with_schemes=with_schemes,
    )


def make_cases(names: Sequence[str], seeds: Sequence[int], losses: Losses = "drawn") -> list[Case]:
    """Every problem with every seed.

    Args:
        names: of recorded problems; one may end in a floor, `resnet8@znver4-2t:-0.02`, else the
            recording's counts.
        seeds: of the losses and searches.
        losses: where the true ones come from (see `open_replay`).

    Raises:
        CPruneError: there is no such recording, it is damaged, or a floor is none.
    """
    cases = []
    for name in dict.fromkeys(names):
        bare, asked = without_floor(name)
        recording = read_recording(bare)
        absolute = resolve_floor(
            recording.floor if asked is None else asked, recording.dense_accuracy
        )
        cases += [
            Case(bare, round(absolute - recording.dense_accuracy, 6), losses, seed)
            for seed in seeds
        ]
    return cases


def kept(replay: Replay, accepted: Sequence[AcceptedPlan]) -> tuple[AcceptedPlan, int]:
    """The plan that a run would keep, because it truly holds, and the full fine-tunes that it takes
    to know.

    Args:
        replay: that was searched.
        accepted: by the search, the dense plan first.
    """
    front = pareto_front(accepted)
    asked: list[int] = []

    def holds(at: int) -> bool:
        asked.append(at)
        return replay.holds(front[at].plan)

    return front[back_off(front, holds)], len(asked)
