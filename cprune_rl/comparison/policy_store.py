"""Policies of compared methods, trained before they search and kept in the comparison's folder.

- `transferred`: trained on the packaged recordings of all other families of networks, so that it
  never met the network it is to prune.
- `scratch`: trained on a model of the one problem, made of what a live run measures before it
  searches.
- `finetuned`: the transferred one, trained on in that model.
- `mapping`: as `transferred`, in the environment in which layers get schemes, on recordings that
  have them, those that a user added among them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprune_rl.agents.registry import POLICY_KINDS
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, read_card, save_policy
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.comparison.cases import open_case
from cprune_rl.comparison.records import Case, file_name
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.problems.generated import GeneratedProblems, ProblemSource
from cprune_rl.envs.problems.registry import has_schemes, read_recording, recorded_names
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator

__all__ = ["PolicyStore", "network_family", "policies_to_train"]

# A kind stands after the one that it begins with.
# Beginnings of the folders of kinds that serve every problem of a family.
_FAMILY_FOLDERS = {"transferred": "without", "mapping": "mapping-without"}
_MAX_ROWS = TrainingSettings.max_rows


def network_family(problem: str) -> str:
    """Name the family of a recorded problem's network: `resnet` of `resnet20@znver4-1t`.

    Args:
        problem: name of the recording, or its path.
    """
    name = Path(problem).name
    letters = re.match(r"[A-Za-z]+", name)
    return letters.group().lower() if letters else name


@dataclass(frozen=True)
class PolicyStore:
    """A folder of policies.

    Attributes:
        folder: of the policies.
        timesteps: that a policy for a family is trained for.
        own_timesteps: that a policy for one problem is trained for.
    """

    folder: Path
    timesteps: int = 100_000
    own_timesteps: int = 20_000

    def path(self, kind: str, problem: str) -> Path:
        """Name the folder of a policy.

        Args:
            kind: one of `registry.POLICY_KINDS`.
            problem: name of the recording that it is to prune.
        """
        if kind in _FAMILY_FOLDERS:
            return self.folder / f"{_FAMILY_FOLDERS[kind]}-{network_family(problem)}"
        return self.folder / f"{kind}-{file_name(problem)}"

    def has(self, kind: str, problem: str) -> bool:
        """Whether a policy was trained; arguments as of `path`."""
        return (self.path(kind, problem) / "policy.json").is_file()

    def load(self, kind: str, problem: str) -> RowPolicy:
        """Load a policy that was trained before; arguments as of `path`.

        Raises:
            PolicyError: it is not there.
        """
        return load_policy(self.path(kind, problem), _n_rows(problem), _action_set(kind))

    def train_s(self, kind: str, problem: str) -> float:
        """Look up the seconds that training took for this problem alone; arguments as of `path`.

        A policy for a family serves many problems, and costs none of them anything.
        """
        if kind in _FAMILY_FOLDERS:
            return 0.0
        return float(read_card(self.path(kind, problem)).get("train_s", 0.0))

    def train(self, kind: str, case: Case) -> Path:
        """Train a policy, unless it is there.

        Args:
            kind: one of `registry.POLICY_KINDS`; `finetuned` wants the transferred one to be there.
            case: any of the problem.

        Returns:
            Its folder.

        Raises:
            ConfigError: there is no recording of another family to train on.
        """
        path = self.path(kind, case.problem)
        if self.has(kind, case.problem):
            return path
        if kind in _FAMILY_FOLDERS:
            trained_on = _other_families(case.problem, with_schemes=kind == "mapping")
            problems = GeneratedProblems.from_recordings(trained_on)
            timesteps = self.timesteps
        else:
            trained_on = [case.problem]
            problems = _model_problems(case)
            timesteps = self.own_timesteps
        start = self.load("transferred", case.problem) if kind == "finetuned" else None
        started = time.perf_counter()
        settings = TrainingSettings(total_timesteps=timesteps, max_rows=_n_rows(case.problem))
        trained = train_policy(problems, settings, start=start, action_set=_action_set(kind))
        card = {
            "trained_on": trained_on,
            "timesteps": timesteps,
            "train_s": round(time.perf_counter() - started, 1),
        }
        save_policy(trained.policy, path, card, action_set=_action_set(kind))
        return path


def _other_families(problem: str, with_schemes: bool) -> list[str]:
    """Name the recordings of other families than a problem's."""
    family = network_family(problem)
    names = [
        name
        for name in recorded_names(with_added=with_schemes)
        if network_family(name) != family and (not with_schemes or has_schemes(name))
    ]
    if not names:
        add = "add one that has schemes (`cprune-rl problems add`), or " if with_schemes else ""
        raise ConfigError(
            f"there is no recording of another family than {family} to train a policy on: "
            f"{add}leave out the methods that transfer one"
        )
    return names


def _model_problems(case: Case) -> GeneratedProblems:
    """Model a problem by what a run has measured before it searches."""
    problem = open_case(case).problem
    network = problem.network
    interpolator = LatencyInterpolator()
    for plan in (network.dense, network.uniform(0.5)):
        costs = problem.latency.measure(plan)
        for workload, cost in zip(network.workloads(plan), costs, strict=True):
            interpolator.learn(workload, cost)
    source = ProblemSource(
        name=problem.name,
        network=network,
        interpolator=interpolator,
        loss_model=problem.loss_model,
        dense_accuracy=problem.dense_accuracy,
        descriptor=problem.descriptor,
    )
    return GeneratedProblems.from_source(source)


def policies_to_train(kinds: Collection[str], cases: Sequence[Case]) -> list[tuple[str, Case]]:
    """List the policies that some cases want, each once, after the one that it begins with.

    Args:
        kinds: of `registry.POLICY_KINDS`.
        cases: to be searched.
    """
    policies: dict[tuple[str, str], tuple[str, Case]] = {}
    for kind in POLICY_KINDS:
        if kind in kinds or (kind == "transferred" and "finetuned" in kinds):
            for case in cases:
                serves = network_family(case.problem) if kind in _FAMILY_FOLDERS else case.problem
                if kind != "mapping" or has_schemes(case.problem):
                    policies.setdefault((kind, serves), (kind, case))
    return list(policies.values())


def _n_rows(problem: str) -> int:
    return max(_MAX_ROWS, len(read_recording(problem).network.subgraphs))


def _action_set(kind: str) -> ActionSet:
    return SchemeActions() if kind == "mapping" else ChannelActions()
