"""What is run on published images, in which order, and what is done of it already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

__all__ = [
    "METHODS",
    "Execute",
    "Experiment",
    "Sources",
    "Step",
    "StepOutcome",
    "experiments",
    "plan_steps",
    "run_steps",
]

METHODS = ("agent", "cprune", "mdp")
_HERE = Path(__file__).parent
_NETWORKS = _HERE / "networks.py"
_BATCH = 64  # images in a step of `TrainSettings`
_SEEDS = (0, 1, 2)
_INTERRUPTED = 130  # exit status of a command after Ctrl-C
_TRIAL_EPOCHS = 0.05

Execute = Callable[[Sequence[str], Path], int]
"""Runs a command, keeps what it prints in a file, and gives its exit status."""
State = Literal["done before", "done", "failed", "not tried"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where images and checkpoints are; None where they are not.

    Attributes:
        fashion_mnist: folder of the published idx files.
        cifar10_jpeg: folder with `train/` and `val/`, of pictures.
        checkpoints: folder of `resnet20.safetensors` and `resnet56.safetensors`.
    """

    fashion_mnist: Path | None = None
    cifar10_jpeg: Path | None = None
    checkpoints: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One network on one set of images.

    Attributes:
        name: of its folder.
        images: as the page calls them.
        network: likewise.
        model: as `--model` takes it.
        data: as `--data` takes it.
        n_train: images that the network learns from, of the set's own split.
        checkpoint: published weights to begin with; None to train from the start.
        dense_epochs: of the dense network's training, before anything is pruned.
        finetune_epochs: of each full fine-tune.
        floors: one run each.
        seeds: likewise.
        effort: as `--effort` takes it.
        missing: options that name what is not there; empty where it can be run.
    """

    name: str
    images: str
    network: str
    model: str
    data: str
    n_train: int
    checkpoint: Path | None = None
    dense_epochs: float
    finetune_epochs: float
    floors: tuple[float, ...] = (-0.01,)
    seeds: tuple[int, ...] = (0,)
    effort: str = "light"
    missing: tuple[str, ...] = ()

    @property
    def finetune_steps(self) -> int:
        """Steps of a full fine-tune."""
        return max(1, round(self.finetune_epochs * self.n_train / _BATCH))

    def as_trial(self) -> Experiment:
        """Only try the way: one run that is not worth to be quoted."""
        return replace(
            self,
            dense_epochs=_TRIAL_EPOCHS,
            finetune_epochs=_TRIAL_EPOCHS,
            floors=self.floors[:1],
            seeds=self.seeds[:1],
            effort="fast",
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, which leaves a file behind where it went to its end.

    Attributes:
        name: of its folder within the results.
        command: program and arguments.
        done: file in its folder that is there when it is done.
        resume: command that goes on with what was begun; empty where it begins anew.
        after: name of the step that it needs.
    """

    name: str
    command: tuple[str, ...]
    done: str
    resume: tuple[str, ...] = ()
    after: str | None = None


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step, and why."""

    step: Step
    state: State
    note: str = field(default="")


def experiments(sources: Sources) -> list[Experiment]:
    """List what is run, in order: the quickest to say something come first."""
    return [*_fashion_mnist(sources), *_cifar10(sources)]


def _fashion_mnist(sources: Sources) -> Iterator[Experiment]:
    missing = () if sources.fashion_mnist else ("FASHION_MNIST",)
    models = {
        "resnet8": "resnet8",
        "lenet": f"{_NETWORKS}:lenet",
        "mobilenetv2-small": "mobilenetv2-small",
    }
    for network, model in models.items():
        yield Experiment(
            name=f"fashion-mnist-{network}",
            images="Fashion-MNIST",
            network=network,
            model=model,
            data=f"fashion-mnist:{sources.fashion_mnist}",
            n_train=48_000,
            dense_epochs=20,
            finetune_epochs=3,
            seeds=_SEEDS,
            effort="full",
            missing=missing,
        )


def _cifar10(sources: Sources) -> Iterator[Experiment]:
    needed = {"CIFAR10_JPEG": sources.cifar10_jpeg, "CIFAR_RESNETS": sources.checkpoints}
    missing = tuple(name for name, folder in needed.items() if folder is None)
    checkpoints = sources.checkpoints or Path()
    floors = {"resnet20": (-0.01, -0.005), "resnet56": (-0.01,)}
    finetune_epochs = {"resnet20": 10.0, "resnet56": 5.0}
    for network, epochs in finetune_epochs.items():
        yield Experiment(
            name=f"cifar10-jpeg-{network}",
            images="CIFAR-10 (JPEG)",
            network=network,
            model=f"{_NETWORKS}:{network}",
            # the checkpoints were trained on pixels of this scale
            data=f"imagefolder:{sources.cifar10_jpeg}?size=32&normalise=imagenet",
            n_train=40_000,
            checkpoint=checkpoints / f"{network}.safetensors",
            dense_epochs=10,
            finetune_epochs=epochs,
            floors=floors[network],
            missing=missing,
        )


def plan_steps(planned: Sequence[Experiment], folder: Path) -> list[Step]:
    """List the commands of all experiments that can be run: the dense network's training first.

    Args:
        planned: experiments, in order.
        folder: of all results.
    """
    steps = []
    for experiment in planned:
        if not experiment.missing:
            steps += _steps_of(experiment, folder)
    return steps


def _steps_of(experiment: Experiment, folder: Path) -> Iterator[Step]:
    common = ("--model", experiment.model, "--data", experiment.data)
    dense = f"{experiment.name}/dense"
    command = [sys.executable, str(_HERE / "train_dense.py"), *common]
    command += ["--epochs", f"{experiment.dense_epochs:g}", "--out", str(folder / dense)]
    if experiment.checkpoint is not None:
        command += ["--weights", str(experiment.checkpoint)]
    yield Step(name=dense, command=tuple(command), done="weights.safetensors")
    program = (sys.executable, "-m", "cprune_rl.cli", "train")
    for floor in experiment.floors:
        for seed in experiment.seeds:
            name = f"{experiment.name}/floor{floor:+g}-seed{seed}"
            options = {
                "--weights": str(folder / dense / "weights.safetensors"),
                "--floor": f"{floor:g}",
                "--methods": ",".join(METHODS),
                "--seed": str(seed),
                "--effort": experiment.effort,
                "--finetune-steps": str(experiment.finetune_steps),
                "--out": str(folder / name),
            }
            words = [f"{option}={value}" for option, value in options.items()]
            yield Step(
                name=name,
                command=(*program, *common, *words),
                done="result.json",
                resume=(*program, "--resume", str(folder / name)),
                after=dense,
            )


def run_steps(
    steps: Sequence[Step], folder: Path, execute: Execute, tell: Callable[[str], None]
) -> list[StepOutcome]:
    """Run what is not done yet, and go on where a step fails.

    Args:
        steps: in order.
        folder: of all results.
        execute: runs a command.
        tell: prints a line.

    Raises:
        KeyboardInterrupt: a command was interrupted. What was done stays.
    """
    outcomes: dict[str, StepOutcome] = {}
    for at, step in enumerate(steps, start=1):
        outcome = _run_step(step, folder, execute, outcomes)
        outcomes[step.name] = outcome
        tell(f"{at} of {len(steps)}: {step.name}: {outcome.state}{outcome.note}")
    return list(outcomes.values())


def _run_step(
    step: Step, folder: Path, execute: Execute, outcomes: dict[str, StepOutcome]
) -> StepOutcome:
    done = folder / step.name / step.done
    if done.exists():
        return StepOutcome(step, "done before")
    if step.after is not None and outcomes[step.after].state not in ("done", "done before"):
        return StepOutcome(step, "not tried", f", because {step.after} is not done")
    is_begun = bool(step.resume) and (folder / step.name / "config.yaml").exists()
    log = folder / "logs" / f"{step.name.replace('/', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = execute(step.resume if is_begun else step.command, log)
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status or not done.exists():
        return StepOutcome(step, "failed", f" with exit status {status}, see {log}")
    return StepOutcome(step, "done")
