"""Policies by name: the packaged ones, one folder each, and anybody's folders.

`x86-cpu` is trained on every packaged recording; its card, `policy.json`, states the command. Names
are looked up without loading torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cprune_rl.core.folders import expanded
from cprune_rl.errors import UnknownNameError

if TYPE_CHECKING:
    from cprune_rl.agents.rl.policy import RowPolicy

__all__ = ["DEFAULT", "find_policy", "open_policy", "policy_names"]

DEFAULT = "x86-cpu"
_PACKAGED = Path(__file__).parent


def policy_names() -> list[str]:
    """List the packaged policies."""
    return sorted(file.parent.name for file in _PACKAGED.glob("*/policy.json"))


def find_policy(name: str) -> Path:
    """Find the folder of a policy.

    Args:
        name: of a packaged one, or a folder that holds `policy.json`, itself or under `policy/` as
            a run's does.

    Raises:
        UnknownNameError: there is none of that name, and no such folder.
    """
    own = expanded(name)
    for folder in (own, own / "policy", _PACKAGED / name):
        if (folder / "policy.json").is_file():
            return folder
    raise UnknownNameError("policy", name, policy_names())


def open_policy(name: str, max_rows: int) -> RowPolicy:
    """Open a policy for tables of up to `max_rows` tasks.

    Args:
        name: as `find_policy` takes it.
        max_rows: of the observation.

    Raises:
        UnknownNameError: there is none of that name, and no such folder.
        PolicyError: it is damaged, or reads another observation.
    """
    from cprune_rl.agents.rl.policy import load_policy

    return load_policy(find_policy(name), max_rows)
