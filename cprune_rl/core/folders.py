"""Where this package keeps files of a user's."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["cache_folder", "use_cache_folder"]


def cache_folder() -> Path:
    """Give the folder of trained networks and costs: CPRUNE_RL_CACHE, or the user cache folder."""
    asked = os.environ.get("CPRUNE_RL_CACHE")
    folder = Path(asked).expanduser() if asked else user_cache_path("cprune-rl")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def use_cache_folder(folder: Path) -> None:
    """Have this process, and those that it starts, keep networks and costs in a folder."""
    os.environ["CPRUNE_RL_CACHE"] = str(folder)
