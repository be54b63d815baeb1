"""The cases of a comparison, and what a run would keep of a search.

A case is a problem with a floor and a seed. It is searched in a replay of the recorded problem,
where a method pays as it would pay on a device. The plan that counts is the one that a run would
keep: the fastest that passes the final gate, found by a few full fine-tunes. It counts for nothing
where it does not truly hold the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

from cprune_rl.comparison.records import Case, Losses
from cprune_rl.envs.problems.registry import read_recording, split_floor
from cprune_rl.envs.problems.replay import Replay, ReplaySettings, open_replay

__all__ = ["make_cases", "open_case"]


def open_case(
    case: Case,
    *,
    warm_start: bool = True,
    perfect_information: bool = False,
    with_schemes: bool = False,
) -> Replay:
    """Open a case anew, with nothing spent; the other arguments are those of `ReplaySettings`."""
    settings = ReplaySettings(
        seed=case.seed,
        losses=case.losses,
        warm_start=warm_start,
        with_schemes=with_schemes,
        perfect_information=perfect_information,
        gate_images=case.gate_images,
    )
    return open_replay(case.problem, case.floor, settings)


def make_cases(
    names: Sequence[str],
    seeds: Sequence[int],
    losses: Losses = "drawn",
    gate_images: int | None = None,
) -> list[Case]:
    """Combine every problem with every seed.

    Args:
        names: of recorded problems; one may end in a floor, `resnet8@znver4-2t:-0.02`, else the
            recording's counts.
        seeds: of the losses and searches.
        losses: where the true ones come from.
        gate_images: that the final gate judges on; None where the truth decides.

    Raises:
        CPruneError: there is no such recording, it is damaged, or a floor is none.
    """
    cases = []
    for name in dict.fromkeys(names):
        problem, floor = split_floor(name)
        recording = read_recording(problem)
        change = round(recording.floor_or(floor) - recording.dense_accuracy, 6)
        cases += [
            Case(problem=problem, floor=change, losses=losses, seed=seed, gate_images=gate_images)
            for seed in seeds
        ]
    return cases
