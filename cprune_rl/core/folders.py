"""Where this package keeps files of a user's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from cprune_rl.core.untrusted import damage
from cprune_rl.errors import ConfigError

__all__ = ["cache_folder", "expanded", "problems_folder", "use_cache_folder"]

_OTHER_CACHE = "Name another one with --cache DIR or CPRUNE_RL_CACHE."


def cache_folder() -> Path:
    """Give the folder of trained networks and costs: CPRUNE_RL_CACHE, or the user cache folder.

    Raises:
        ConfigError: it cannot be made or written, or there is no home folder for it.
    """
    asked = os.environ.get("CPRUNE_RL_CACHE")
    folder = expanded(asked) if asked else _below_home(user_cache_path)
    if folder is None:
        raise ConfigError(
            "there is no home folder (HOME is not set) to keep networks and costs in. "
            f"{_OTHER_CACHE}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of networks and costs, {folder}, cannot be made: {damage(error)}. "
            f"{_OTHER_CACHE}"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the folder of networks and costs, {folder}, cannot be written. {_OTHER_CACHE}"
        )
    return folder


def use_cache_folder(folder: Path) -> None:
    """Have this process, and those that it starts, keep networks and costs in a folder."""
    os.environ["CPRUNE_RL_CACHE"] = str(folder)


def problems_folder() -> Path:
    """Give the folder of added problems: CPRUNE_RL_PROBLEMS, or one of the user's data.

    It need not be there. A user without a home folder has it below the working folder.
    """
    asked = os.environ.get("CPRUNE_RL_PROBLEMS")
    if asked:
        return expanded(asked)
    folder = _below_home(user_data_path)
    return Path("cprune-rl-problems").absolute() if folder is None else folder / "problems"


def expanded(path: str | Path) -> Path:
    """Give a path with the home folder in the place of `~`.

    Raises:
        ConfigError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no such home folder; write the whole path") from error


def _below_home(find: Callable[[str], Path]) -> Path | None:
    """Give one of platformdirs' folders; None where there is no home folder."""
    try:
        folder = find("cprune-rl")
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions give `~/...`
