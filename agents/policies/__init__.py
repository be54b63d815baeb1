"""Policies by name: the packaged ones, one folder each, and anybody's folders.

`x86-cpu` is trained on every packaged recording; its card, `policy.json`, states the command.
"""

from __future__ import annotations

from pathlib import Path

from cprune_rl.agents.policy import RowPolicy, load_policy
from cprune_rl.errors import UnknownNameError

__all__ = ["DEFAULT", "open_policy", "policy_names"]

DEFAULT = "x86-cpu"


def policy_names() -> list[str]:
    """The packaged ones."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/policy.json"))


def open_policy(name: str, max_rows: int) -> RowPolicy:
    """Opens a policy for tables of up to `max_rows` tasks.

    Args:
        name: of a packaged one, or a folder that holds `policy.json`; a run folder's `policy/` will do.
        max_rows: of the observation.

    Raises:
        UnknownNameError: there is none of that name, and no such folder.
        PolicyError: it is damaged, or reads another observation.
    """
    for folder in (Path(name), Path(name) / "policy", Path(__file__).parent / name):
        if (folder / "policy.json").is_file():
            return load_policy(folder, max_rows)
    raise UnknownNameError("policy", name, policy_names())
