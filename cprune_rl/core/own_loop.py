"""States how a user's own functions judged the networks of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["OwnLoop"]


@dataclass(frozen=True, kw_only=True)
class OwnLoop:
    """What must be known of functions that trained and judged the networks of a run.

    Attributes:
        name: of the loop, as it was given or drawn.
        gate_images: "own" ones, or "search": the gate judged on images that the search saw.
        test_images: "own" ones, or those of "gate" or "search": they decided something before.
        is_paired: whether the gate knew of each image whether a network is right on it, or only how
            many there are.
    """

    name: str
    gate_images: Literal["own", "search"]
    test_images: Literal["own", "gate", "search"]
    is_paired: bool

    @property
    def shown_on(self) -> str:
        """Images of the accuracies that a report calls those of the test."""
        return {
            "own": "test images",
            "gate": "the gate's images",
            "search": "the search's images",
        }[self.test_images]

    @property
    def caveats(self) -> list[str]:
        """What makes figures less sure than they look, a sentence each; empty where nothing."""
        found = []
        if self.gate_images == "search":
            found.append(
                "The gate judged on the images that the search saw: it had none of its own, so a "
                "network may pass that fits these images better than others."
            )
        if self.test_images == "gate":
            found.append(
                "The test accuracies are of the gate's images, which decided what was kept: no "
                "images were left for the test."
            )
        elif self.test_images == "search":
            found.append(
                "The test accuracies are of the images that the search saw: no images were left "
                "for the test."
            )
        if not self.is_paired:
            found.append(
                "The gate knew how many images are right, and not which: it could not pair the "
                "networks, and its bound is wider for it."
            )
        return found
