"""Which forms of a subgraph are worth trying at which channels, by what was seen at others.

How forms compare changes with the channels: Winograd's filtering pays on many, the plain form on
few. The assumption is
that it changes no faster than their number: a form that was three times slower may be the fastest
where channels read,
times channels written, are three times fewer, and is worth a look from there on. Called by the
tuner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["Channels", "FormSurvey"]

Channels = tuple[int, int]  # read, written


class FormSurvey:
    """How the forms of one subgraph compared, at each shape where they were tried.

    Args:
        forms: that it can take.
    """

    def __init__(self, forms: Sequence[int]) -> None:
        self._forms = tuple(forms)
        self._slowdowns: dict[Channels, dict[int, float]] = {}

    def copy(self) -> FormSurvey:
        """One that goes on from here for itself."""
        copied = FormSurvey(self._forms)
        copied._slowdowns = dict(self._slowdowns)
        return copied

    def note(self, channels: Channels, costs: Mapping[int, float]) -> None:
        """Takes in what forms cost at a shape, in place of what was known of that shape.

        Args:
            channels: of the shape.
            costs: seconds of each form that was tried there; infinite where none of its programs
                ran.
        """
        fastest = min(costs.values())
        self._slowdowns[channels] = {
            form: cost / fastest if math.isfinite(cost) else math.inf
            for form, cost in costs.items()
        }

    def worthwhile(self, channels: Channels, tolerance: float) -> tuple[int, ...]:
        """The forms that may be the fastest at a shape; all, where nothing speaks for any.

        Args:
            channels: of the shape.
            tolerance: factor by which a form may have been slower at the same shape.
        """
        return (
            tuple(form for form in self._forms if self._may_win(form, channels, tolerance))
            or self._forms
        )

    def _may_win(self, form: int, channels: Channels, tolerance: float) -> bool:
        """By the nearest shape on which the form was tried."""
        tried = [known for known, slowdowns in self._slowdowns.items() if form in slowdowns]
        if not tried:
            return True
        nearest = min(tried, key=lambda known: _factor(known, channels))
        return self._slowdowns[nearest][form] <= tolerance * _factor(nearest, channels)


def _factor(a: Channels, b: Channels) -> float:
    """By how much two shapes differ, at least 1."""
    return math.prod(max(m, n) / min(m, n) for m, n in zip(a, b, strict=True))
