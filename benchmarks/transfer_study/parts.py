"""What is tried: trainings, and the jobs of each part of the study."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cprune_rl.agents.rl.policy import load_policy, save_policy
from cprune_rl.agents.rl.training import TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.core.search_result import current_method
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings
from cprune_rl.envs.problems.registry import CLASS_ORDER, recorded_names
from cprune_rl.pipeline.progress import ProgressLog

from .jobs import MAX_ROWS, Case, Job, Losses, run_job

__all__ = ["PARTS", "Study", "run_live"]

FAMILIES = {
    "resnet": ("resnet8", "resnet20"),
    "vgg": ("vgg-small",),
    "mobilenet": ("mobilenetv2-small",),
}
FLOORS = (-0.01, -0.02)
RIVALS = ("reference", "agent, untrained", "prior", "surrogate", "proxy-greedy", "cprune")
PACKAGED = Path(__file__).parents[2] / "agents" / "policies" / "x86-cpu"
_MAX_RECORDED_SEEDS = 2  # draws of recorded losses, of which the level alone is drawn


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is tried in every part.

    Attributes:
        policies: folder where trained policies are kept.
        timesteps: of a training.
        seeds: draws of the true losses.
        trainings: policies of each kind, by other seeds.
    """

    policies: Path
    timesteps: int
    seeds: int
    trainings: int

    def cases(self, names: Iterable[str], losses: Losses = "drawn") -> list[Case]:
        """List every recording with every floor and every draw of its losses."""
        seeds = range(self.seeds if losses == "drawn" else min(self.seeds, _MAX_RECORDED_SEEDS))
        return [
            Case(name=name, floor=floor, seed=seed, losses=losses)
            for name, floor, seed in itertools.product(names, FLOORS, seeds)
        ]

    def train(
        self,
        label: str,
        names: Sequence[str],
        seed: int,
        *,
        timesteps: int | None = None,
        init: Path | None = None,
        generator: GeneratorSettings | None = None,
    ) -> Path:
        """Train a policy on recordings and variants of their networks.

        Args:
            label: of its folder, before the seed.
            names: of the recordings.
            seed: of the training.
            timesteps: where they are others than the study's.
            init: folder of the policy that it begins with.
            generator: of the problems.

        Returns:
            The folder. A policy that is there of the same training is not trained again.
        """
        folder = self.policies / f"{label}-{seed}"
        timesteps = timesteps or self.timesteps
        generator = generator or GeneratorSettings(seed=seed)
        card = {
            "trained_on": list(names),
            "timesteps": timesteps,
            "seed": seed,
            "is_device_hidden": generator.is_device_hidden,
            "init": None if init is None else init.name,
            "problems": json.loads(json.dumps(asdict(generator))),
        }
        file = folder / "policy.json"
        if file.is_file() and json.loads(file.read_text())["card"] == card:
            return folder
        problems = GeneratedProblems.from_recordings(names, generator)
        settings = TrainingSettings(
            total_timesteps=timesteps, n_workers=None, max_rows=MAX_ROWS, seed=seed
        )
        start = None if init is None else load_policy(init, MAX_ROWS)
        with ProgressLog().track(f"Training {folder.name}", timesteps) as advance:
            monitor = TrainingMonitor(on_steps=advance)
            trained = train_policy(problems, settings, monitor=monitor, start=start)
        save_policy(trained.policy, folder, card)
        return folder


def _split(family: str) -> tuple[list[str], list[str]]:
    """Recordings of a family of networks, and all others."""
    own: list[str] = []
    others: list[str] = []
    for name in recorded_names():
        is_own = name.partition("@")[0] in FAMILIES[family]
        (own if is_own else others).append(name)
    return own, others


def plan_families(study: Study, losses: Losses = "drawn") -> list[Job]:
    """Each family by policies that never met it, beside the rivals."""
    jobs: list[Job] = []
    for family in FAMILIES:
        own, others = _split(family)
        folders = [
            study.train(f"without-{family}", others, seed) for seed in range(study.trainings)
        ]
        for case in study.cases(own, losses):
            jobs += [Job(case=case, label=method, method=method) for method in RIVALS]
            for method in ("agent", "roll-out"):
                for training, folder in enumerate(folders):
                    jobs.append(
                        Job(
                            case=case,
                            label=method,
                            method=method,
                            policy=folder,
                            training=training,
                        )
                    )
    return jobs


def plan_recorded(study: Study) -> list[Job]:
    """The families with the recordings' own losses."""
    return plan_families(study, "recorded")


def plan_devices(study: Study) -> list[Job]:
    """Roll-outs of policies of each class, and of all.

    Those of all are trained as usual, without figures of the device, or on generated networks.
    """
    names = recorded_names()
    cases = study.cases(names)
    jobs = [Job(case=case, label="reference", method="reference") for case in cases]
    for training in range(study.trainings):
        usual = GeneratorSettings(seed=training)
        hidden = GeneratorSettings(is_device_hidden=True, seed=training)
        generated = GeneratorSettings(recorded_share=0.0, seed=training)
        kinds = {c: ([n for n in names if n.endswith(f"@{c}")], usual) for c in CLASS_ORDER}
        kinds["all"] = (names, usual)
        kinds["all, device hidden"] = (names, hidden)
        kinds["all, generated"] = (names, generated)
        for label, (chosen, generator) in kinds.items():
            folder_label = f"on-{label.replace(', ', '-').replace(' ', '-')}"
            folder = study.train(folder_label, chosen, training, generator=generator)
            jobs += [
                Job(
                    case=case,
                    label=label,
                    method="roll-out",
                    policy=folder,
                    training=training,
                    is_device_hidden=generator.is_device_hidden,
                )
                for case in cases
            ]
    return jobs


def plan_starts(study: Study) -> list[Job]:
    """Roll-outs on a family by policies that met it never, late, or alone."""
    jobs: list[Job] = []
    few = study.timesteps // 5
    for family in FAMILIES:
        own, others = _split(family)
        cases = study.cases(own)
        jobs += [Job(case=case, label="reference", method="reference") for case in cases]
        for training in range(study.trainings):
            without = study.train(f"without-{family}", others, training)
            folders = {
                "never met": without,
                f"and {few} steps on it": study.train(
                    f"from-without-{family}", own, training, timesteps=few, init=without
                ),
                f"{few} steps on it alone": study.train(
                    f"briefly-{family}", own, training, timesteps=few
                ),
                f"{study.timesteps} steps on it alone": study.train(
                    f"only-{family}", own, training
                ),
            }
            for label, folder in folders.items():
                jobs += [
                    Job(
                        case=case,
                        label=label,
                        method="roll-out",
                        policy=folder,
                        training=training,
                    )
                    for case in cases
                ]
    return jobs


def run_live(results: Sequence[Path], device_class: str, seeds: int) -> list[dict[str, Any]]:
    """Set what live runs came to beside what replays promise of the same network and floor.

    Args:
        results: `result.json` of the runs.
        device_class: of the recordings that are replayed.
        seeds: draws of the true losses.
    """
    rows: list[dict[str, Any]] = []
    for file in results:
        result = json.loads(file.read_text())
        measured = {current_method(r["method"]): r for r in (result, *result["rivals"])}
        for method in ("agent", "cprune"):
            name = f"{result['model']}@{device_class}"
            cases = [Case(name=name, floor=result["floor"], seed=seed) for seed in range(seeds)]
            row = {
                "network": result["model"],
                "floor": result["floor"],
                "method": method,
                "results": file.name,
                "promised": _promised(cases, method),
            }
            if method in measured:
                row["came"] = _came(measured[method])
            rows.append(row)
    return rows


def _promised(cases: Sequence[Case], method: str) -> dict[str, Any]:
    """Means over replays; of the speed-up also the least and the most."""
    rows = [run_job(Job(case=case, label=method, method=method, policy=PACKAGED)) for case in cases]
    speedups = [math.exp(row["log_gain"]) for row in rows]
    promised: dict[str, Any] = {
        "speedup": [round(f(speedups), 3) for f in (np.mean, min, max)],
    }
    for name in ("accuracy_evaluations", "full_finetunes", "tasks"):
        promised[name] = round(float(np.mean([row[name] for row in rows])), 1)
    return promised


def _came(result: dict[str, Any]) -> dict[str, Any]:
    """What a live run states of a method."""
    came: dict[str, Any] = {
        "speedup": [round(v, 3) for v in (result["speedup"], *result["speedup_ci"])],
    }
    for name in ("accuracy_evaluations", "full_finetunes", "fresh_trials"):
        came[name] = result["cost"][name]
    return came


PARTS = {
    "families": plan_families,
    "recorded": plan_recorded,
    "devices": plan_devices,
    "starts": plan_starts,
}
