"""What a validation says of one claim."""

from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One claim, and what came out when it was checked.

    Attributes:
        claim: what the run states.
        found: what came out here.
        passed: whether they agree; None where it cannot be checked, `found` says why.
    """

    claim: str
    found: str
    passed: bool | None
