"""The policies that compared methods bring along, trained before they search and kept in the
comparison's folder.

`transferred`: on the packaged recordings of all other families of networks, so that it never met
    the network it is to prune.
`scratch`: on a model of the one problem, made of what a live run measures before it searches.
    `finetuned`: the first, trained on in that
model. `mapping`: as `transferred`, of the environment in which layers get schemes, on recordings
that have them, a user's own among them. Called by `methods` and `runner`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.comparison.cases import open_case
from cprune_rl.comparison.records import Case
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.actions.layer_schemes import SchemeActions
from cprune_rl.envs.cprune_env import ProblemSampler
from cprune_rl.envs.problems.generated import GeneratedProblems, ProblemSource
from cprune_rl.envs.problems.registry import has_schemes, read_recording, recorded_names
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator

__all__ = ["KINDS", "PolicyStore", "needed", "network_family"]

KINDS = ("transferred", "scratch", "finetuned", "mapping")
_OF_FAMILIES = {
    "transferred": "without",
    "mapping": "mapping-without",
}  # that serve every problem of a family
_MAX_ROWS = TrainingSettings.max_rows


def network_family(name: str) -> str:
    """Family of a recorded problem's network, by the letters that its name begins with:

    `resnet` of `resnet20@znver4-1t`.
    """
    found = re.match(r"[A-Za-z]+", name)
    return found.group().lower() if found else name


@dataclass(frozen=True)
class PolicyStore:
    """See the module.

    Attributes:
        folder: of the policies.
        timesteps: that a transferred policy is trained for.
        own_timesteps: that one is trained for on a problem of its own.
    """

    folder: Path
    timesteps: int = 100_000
    own_timesteps: int = 20_000

    def path(self, kind: str, problem: str) -> Path:
        """Folder of a policy.

        Args:
            kind: one of `KINDS`.
            problem: name of the recording that it is to prune.
        """
        return self.folder / (
            f"{_OF_FAMILIES[kind]}-{network_family(problem)}"
            if kind in _OF_FAMILIES
            else f"{kind}-{_file_name(problem)}"
        )

    def load(self, kind: str, problem: str) -> RowPolicy:
        """A policy that was trained before.

        Raises:
            PolicyError: it is not there.
        """
        return load_policy(self.path(kind, problem), self._rows(problem), _action_set(kind))

    def seconds(self, kind: str, problem: str) -> float:
        """That training it took for this problem alone;

        0 of a transferred one, which serves every problem.
        """
        return (
            0.0
            if kind in _OF_FAMILIES
            else float(
                json.loads((self.path(kind, problem) / "policy.json").read_text())["card"][
                    "train_s"
                ]
            )
        )

    def train(self, kind: str, case: Case) -> Path:
        """Trains a policy, unless it is there.

        Args:
            kind: one of `KINDS`; `finetuned` wants the transferred one to be there.
            case: any of the problem.

        Raises:
            ConfigError: there is no recording of another family to train on.
        """
        path = self.path(kind, case.problem)
        if (path / "policy.json").is_file():
            return path
        problems, card = self._problems(kind, case)
        start = self.load("transferred", case.problem) if kind == "finetuned" else None
        started = time.perf_counter()
        settings = TrainingSettings(
            self.timesteps if kind in _OF_FAMILIES else self.own_timesteps,
            max_rows=self._rows(case.problem),
        )
        trained = train_policy(problems, settings, start=start, action_set=_action_set(kind))
        save_policy(
            trained.policy,
            path,
            {
                **card,
                "timesteps": settings.total_timesteps,
                "train_s": round(time.perf_counter() - started, 1),
            },
            _action_set(kind),
        )
        return path

    def _problems(self, kind: str, case: Case) -> tuple[ProblemSampler, dict[str, Any]]:
        if kind in _OF_FAMILIES:
            family = network_family(case.problem)
            is_mapping = kind == "mapping"
            names = [
                n
                for n in recorded_names(is_with_added=is_mapping)
                if network_family(n) != family and (not is_mapping or has_schemes(n))
            ]
            if not names:
                add = (
                    "add one that has schemes (`cprune-rl problems add`), or " if is_mapping else ""
                )
                raise ConfigError(
                    f"there is no recording of another family than {family} to train a policy on: {add}leave out the methods that transfer one"
                )
            return GeneratedProblems.from_recordings(names), {"trained_on": names}
        problem = open_case(case).problem
        seen = LatencyInterpolator()
        for plan in (
            problem.network.dense,
            problem.network.uniform(0.5),
        ):  # what a replay has looked at by then
            for workload, cost in zip(
                problem.network.workloads(plan), problem.latency.measure(plan), strict=True
            ):
                seen.learn(workload, cost)
        source = ProblemSource(
            name=problem.name,
            network=problem.network,
            interpolator=seen,
            loss_model=problem.loss_model,
            dense_accuracy=problem.dense_accuracy,
            descriptor=problem.descriptor,
        )
        return GeneratedProblems.from_source(source), {"trained_on": [case.problem]}

    def _rows(self, problem: str) -> int:
        return max(_MAX_ROWS, len(read_recording(problem).network.subgraphs))


def needed(kinds: Sequence[str], cases: Sequence[Case]) -> list[tuple[str, Case]]:
    """What is to be trained for some cases, each policy once, and what others begin with first.

    Args:
        kinds: of `KINDS`.
        cases: to be searched.
    """
    wanted = [
        kind for kind in KINDS if kind in kinds or (kind == "transferred" and "finetuned" in kinds)
    ]
    found: dict[tuple[str, str], tuple[str, Case]] = {}
    for kind in wanted:
        for case in cases if kind != "mapping" else [c for c in cases if has_schemes(c.problem)]:
            found.setdefault(
                (kind, network_family(case.problem) if kind in _OF_FAMILIES else case.problem),
                (kind, case),
            )
    return list(found.values())


def _action_set(kind: str) -> ActionSet:
    return SchemeActions() if kind == "mapping" else ChannelActions()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", name)
