"""Reads names with options, `kind:argument?option=value`, as devices and data sets have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cprune_rl.core.user_function import is_factory
from cprune_rl.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SpecString"]


@dataclass(frozen=True, kw_only=True)
class SpecString:
    """A name, split into its parts.

    Attributes:
        role: what is named, for errors: "device" or "data".
        name: the whole of it.
        kind: up to the first colon; the user's own `file.py:function` stays whole.
        argument: from there to the question mark; empty where there is none.
        options: by name; values with their percent-encoding decoded.
    """

    role: str
    name: str
    kind: str
    argument: str
    options: Mapping[str, str]

    @classmethod
    def from_name(cls, role: str, name: str) -> Self:
        """Split a name; whether its kind and options exist is for the caller to check."""
        head, _, query = name.partition("?")
        kind, _, argument = (head, "", "") if is_factory(head) else head.partition(":")
        options = {}
        for pair in filter(None, query.split("&")):
            option, _, value = pair.partition("=")
            options[option] = unquote(value)
        return cls(role=role, name=name, kind=kind, argument=argument, options=options)

    def check_options(self, known: Sequence[str]) -> None:
        """Refuse options that this kind does not take.

        Raises:
            ConfigError: an option is unknown or has no value.
        """
        if unknown := sorted(set(self.options) - set(known)):
            listed = ", ".join(known) or "none"
            raise self.error(f"unknown option {unknown[0]!r}. Known: {listed}.")
        for option, value in sorted(self.options.items()):
            if not value:
                raise self.error(f"option {option!r} has no value")

    def error(self, problem: str) -> ConfigError:
        """Make an error that names the device or data set and says what is wrong with it."""
        return ConfigError(f"{self.role} {self.name!r}: {problem}")
