"""The outcome of validating one claim."""

from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One claim, and what came out when it was checked.

    Attributes:
        claim: what the run states.
        found: what came out here.
        passed: whether they agree; None where it cannot be checked, and `found` says why.
    """

    claim: str
    found: str
    passed: bool | None
