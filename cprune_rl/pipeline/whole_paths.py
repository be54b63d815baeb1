"""Makes the paths in options absolute: a run folder is read from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cprune_rl.core.folders import expanded
from cprune_rl.core.untrusted import printable
from cprune_rl.errors import ConfigError

__all__ = ["DATA_FROM_PATHS", "check_is_text", "with_whole_paths"]

DATA_FROM_PATHS = ("npz", "cifar10", "fashion-mnist", "imagefolder")
"""Kinds of data whose argument is a path."""
_FOLDERS_OR_NAMES = ("policy", "init", "scheme_policy")
_NAMES_WITH_PATHS = ("model", "data", "task")
_PATHS = ("weights", "cache")


def with_whole_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give options with absolute paths.

    Args:
        values: options by name, as a user gave them.

    Raises:
        ConfigError: a path is no text, or cannot be followed.
    """
    for name, value in values.items():
        check_is_text(name, value)
    try:
        return _made_whole(values)
    # A name that is too long, a link to itself. Python 3.11 raises RuntimeError for the latter.
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"a path cannot be followed: {str(error)[:300]}") from error


def check_is_text(name: str, value: Any) -> None:
    """Refuse what could not be written into the run folder, such as a path that is no text.

    Raises:
        ConfigError: it is none.
    """
    text = f"{name}{value}"
    try:
        text.encode()
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(
            f"{printable(name)}: {str(value)[:300]!a} is no text in UTF-8: "
            "give the file another name, or a link"
        )


def _made_whole(values: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(values)
    for name in _FOLDERS_OR_NAMES:
        if isinstance(whole.get(name), str) and expanded(whole[name]).is_dir():
            whole[name] = str(expanded(whole[name]).resolve())
    for name in _NAMES_WITH_PATHS:
        if isinstance(whole.get(name), str):
            whole[name] = _with_whole_path(whole[name])
    for name in _PATHS:
        if isinstance(whole.get(name), (str, Path)):
            whole[name] = expanded(whole[name]).resolve()
    return whole


def _with_whole_path(name: str) -> str:
    """Make the path in `npz:mine.npz` or `mynet.py:build` absolute."""
    left, mark, options = name.partition("?")
    first, colon, second = left.rpartition(":") if ".py:" in left else left.partition(":")
    if first.endswith((".py", ".onnx")):
        first = str(expanded(first).resolve())
    elif first in DATA_FROM_PATHS and second and expanded(second).exists():
        second = str(expanded(second).resolve())
    return f"{first}{colon}{second}{mark}{options}"
