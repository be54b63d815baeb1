"""Every error that this package raises on purpose.

    CPruneError
    ├── ConfigError (ValueError)          an option or a file of options is wrong
    │   └── UnknownNameError              nothing is registered under that name
    ├── DataError (ValueError)            images or labels are missing or damaged
    ├── ModelError (ValueError)           a network cannot be lowered or pruned
    ├── PlanError (ValueError)            a plan does not fit its network
    ├── FloorError (ValueError)           the floor asks for more than the dense network has
    ├── ToolchainError (RuntimeError)     a compiler or library of the machine is missing
    ├── DeviceError (RuntimeError)        no device answers any more
    ├── BudgetSpentError (RuntimeError)   a search asked for more than its budget pays for
    ├── StoreError (RuntimeError)         the cost cache cannot be read or written
    └── PolicyError (ValueError)          a policy file does not fit this version's observation

A measurement that fails is not among them: it is a value (`core.protocols.Measurement.error`).
Messages say what happened, the value found, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetSpentError",
    "CPruneError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "FloorError",
    "ModelError",
    "PlanError",
    "PolicyError",
    "StoreError",
    "ToolchainError",
    "UnknownNameError",
    "first_line",
    "last_line",
]

_N_SHOWN = 40  # names in a message
_N_CHARACTERS = 300  # of a line of another library's message


class CPruneError(Exception):
    """Root of the tree: `except CPruneError` catches what this package means to raise."""


class ConfigError(CPruneError, ValueError):
    """An option, or a file of options, is wrong."""


class UnknownNameError(ConfigError):
    """A name that nothing is registered under.

    Args:
        kind: what was looked up: "model", "data", "device", "processor", "method".
        name: the name as given.
        known: the names that would have worked.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self._arguments = (kind, name, names)
        shown = ", ".join(names[:_N_SHOWN])
        if len(names) > _N_SHOWN:
            shown += f" and {len(names) - _N_SHOWN} more"
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {shown}.")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        """Pickle by what it was made of: an error of another process is raised here again."""
        return type(self), self._arguments


class DataError(CPruneError, ValueError):
    """Images or labels are missing or damaged."""


class ModelError(CPruneError, ValueError):
    """A network cannot be exported, lowered or pruned."""


class PlanError(CPruneError, ValueError):
    """A plan does not fit the network it is applied to."""


class FloorError(CPruneError, ValueError):
    """The accuracy floor asks for more than the dense network has."""


class ToolchainError(CPruneError, RuntimeError):
    """A tool of the machine is missing, a C++ compiler for one."""


class DeviceError(CPruneError, RuntimeError):
    """A device stopped answering and could not be brought back."""


class BudgetSpentError(CPruneError, RuntimeError):
    """A search asked for a measurement or an evaluation that its budget does not pay for."""


class StoreError(CPruneError, RuntimeError):
    """The cost cache cannot be read or written."""


class PolicyError(CPruneError, ValueError):
    """A policy file does not fit the observation of this version."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, where Python and torch put the reason."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, where TVM puts the reason."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip()[:_N_CHARACTERS] for line in str(error).splitlines() if line.strip()]
    return lines or ["no message"]
