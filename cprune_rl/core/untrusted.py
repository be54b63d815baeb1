"""Reads files that may be damaged or a stranger's, and checks the values in them.

A reader of a format calls these, and raises an error of `errors` that names the file. What they
raise themselves is in `DAMAGED`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cprune_rl.errors import CPruneError, DataError, first_line

__all__ = [
    "DAMAGED",
    "damage",
    "first_problem",
    "number",
    "numbers",
    "printable",
    "read_json",
    "read_yaml",
    "whole",
]

MAX_TEXT_BYTES = 64 << 20
"""Of a JSON or YAML file: the largest that a run writes, its history, has about 1 MiB."""
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    CPruneError,
)
"""What a damaged or hostile file raises where it is read, parsed or looked into."""
_N_SHOWN = 40  # characters of a wrong value
_MAX_DEPTH = 100  # of lists and objects in each other
_MAX_NUMBER = 1e12
_MAX_WHOLE = 10**15


def damage(error: BaseException) -> str:
    """Say in one line what is wrong with a file."""
    if isinstance(error, ValidationError):
        return first_problem(error)
    if isinstance(error, KeyError):
        return f"it has no {str(error.args[0])[:_N_SHOWN]!r}" if error.args else "a key is missing"
    if isinstance(error, RecursionError):
        return "its values are nested too deep"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror.lower())
    return printable(first_line(error))


def first_problem(error: ValidationError) -> str:
    """Say in one line the first thing that pydantic finds wrong."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:_N_SHOWN] for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else first["msg"])


def read_json(path: Path) -> Any:
    """Parse a JSON file, whose numbers are finite.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no JSON.
    """
    try:
        return json.loads(_read(path), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file of plain values, without aliases: a few lines of those make gigabytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no such YAML.
    """
    try:
        return yaml.load(_read(path), _PlainLoader)  # a SafeLoader
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    # PyYAML's constructors of numbers and dates raise these for text that is none
    except (TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"a value is not what its tag says: {first_line(error)}") from error


def number(value: object, what: str, low: float, high: float = _MAX_NUMBER) -> float:
    """Check for a finite number in a range.

    Raises:
        DataError: it is anything else.
    """
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and low <= value <= high
        and math.isfinite(value)
    ):
        return float(value)
    raise DataError(f"{what} is {_shown(value)}, it must be a number from {low:g} to {high:g}")


def numbers(values: object, what: str, n: int, low: float) -> list[float]:
    """Check for a list of `n` finite numbers from `low`.

    Raises:
        DataError: it is anything else.
    """
    if not isinstance(values, list) or len(values) != n:
        raise DataError(f"{what} must be a list of {n} numbers, one for each group or layer")
    return [number(value, what, low) for value in values]


def whole(value: object, what: str, low: int, high: int = _MAX_WHOLE) -> int:
    """Check for a whole number in a range.

    Raises:
        DataError: it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DataError(
            f"{what} is {_shown(value)}, it must be a whole number from {low} to {high}"
        )
    return value


def printable(text: str) -> str:
    """A line that a terminal only shows: a stranger's text may hold line ends and escape codes."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _shown(value: object) -> str:
    """A wrong value in a few characters; Python writes no whole number of 5,000 digits."""
    if isinstance(value, int) and abs(value) > _MAX_WHOLE:
        return f"a number of {value.bit_length()} bits"
    return repr(str(value)[:_N_SHOWN])


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"it holds more than {MAX_TEXT_BYTES >> 20} MiB")
    return content


def _refuse_constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it holds {text[:_N_SHOWN]}, which is larger than any number here")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, and values that are nested deeper than any options are."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*name): write the value itself")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("its values are nested too deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
