"""Keeps the values of a run's stages in its folder, and restores them after `--resume`.

The options with which a run goes on come from `run_folder.RunFolder.resume`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.rl.policy import load_policy, read_card, save_policy
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.pipeline.policy_stage import RunPolicy, TrainedPolicy
from cprune_rl.pipeline.run_folder import RunFolder

__all__ = ["StageStore"]

_OLD_LABEL = ("cprune", "greedy")  # 0.2 named that method's file by the latter
_NOT_COPIED = ("tensorboard", "*.pt", "*.zip")  # of a policy's folder


class StageStore:
    """Makes a stage's value once for each run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def search(self, label: str, make: Callable[[], SearchResult]) -> SearchResult:
        """Restore what a search found, or search.

        Args:
            label: of the search, in file names.
        """
        for name in (label, label.replace(*_OLD_LABEL)):
            file = self._folder.file(f"search_{name}.json")
            if file.exists():
                return SearchResult.read(file)
        result = make()
        self._folder.write_json(f"search_{label}.json", result.to_json())
        return result

    def given_policy(
        self, name: str, given: str, action_set: ActionSet, max_rows: int
    ) -> RunPolicy:
        """Copy a policy that a user gave into the run folder, and load it.

        Args:
            name: of the folder that keeps it.
            given: name or folder of the policy.

        Raises:
            CPruneError: there is no such policy, or it reads another observation.
        """
        folder = self._folder.file(name)
        if not folder.exists():
            ignored = shutil.ignore_patterns(*_NOT_COPIED)
            shutil.copytree(find_policy(given), folder, ignore=ignored)
        return RunPolicy(load_policy(folder, max_rows, action_set), train_s=0.0)

    def trained_policy(
        self, name: str, action_set: ActionSet, max_rows: int, train: Callable[[], TrainedPolicy]
    ) -> RunPolicy:
        """Restore a policy that the run has trained, or train it.

        Args:
            name: of the folder that keeps it.
        """
        folder = self._folder.file(name)
        if (folder / "policy.json").exists():
            policy = load_policy(folder, max_rows, action_set)
            return RunPolicy(policy, train_s=float(read_card(folder).get("train_s", 0.0)))
        trained = train()
        _write_policy(trained, folder, action_set)
        return RunPolicy(trained.policy, train_s=float(trained.card["train_s"]))


def _write_policy(trained: TrainedPolicy, folder: Path, action_set: ActionSet) -> None:
    folder.mkdir(exist_ok=True)
    trained.algorithm.save(folder / "sb3.zip")
    save_policy(trained.policy, folder, trained.card, action_set)
