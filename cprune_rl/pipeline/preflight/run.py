"""Looks at a network before anything is trained: would a run of it go the whole way?

Each part needs those before it. Where one fails, the rest is not checked.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData, data_warnings, load_data
from cprune_rl.accuracy.labels import check_task, labelled_by_network, n_answers
from cprune_rl.accuracy.pixel_scale import describe_scale
from cprune_rl.accuracy.task import load_task
from cprune_rl.accuracy.training import evaluate
from cprune_rl.core.network import Plan
from cprune_rl.errors import ConfigError, CPruneError, ModelError
from cprune_rl.models.registry import build_model, has_own_weights, is_object
from cprune_rl.models.weights import load_weights
from cprune_rl.pipeline.preflight.drawn_statistics import draw_statistics
from cprune_rl.pipeline.preflight.forward import check_forward, check_training
from cprune_rl.pipeline.preflight.objective import Objective
from cprune_rl.pipeline.preflight.report import Finding, NetworkReport
from cprune_rl.pipeline.preflight.trials import TrialCosts, check_compiled
from cprune_rl.pipeline.preflight.workload import RunCosts, estimate_minutes, time_train_step
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.equivalence_check import randomize_zero_scales
from cprune_rl.pruning.groups import CoupledGroups, GroupSettings, find_groups
from cprune_rl.pruning.surgery import prune

__all__ = ["CheckSettings", "check_network", "require_sound_network"]

_REASONS_SHOWN = 3
_SCALE_IMAGES = 128  # on which other scales of the pixels are tried
_NEAR_CHANCE = 2.0  # times the accuracy of guessing


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What is checked.

    Attributes:
        network: name, as `build_model` takes it.
        weights: file of trained weights; None for drawn ones.
        data: name, as `--data` takes it; None where there are no images.
        input_shape: of one image, `(channels, height, width)`; asked for where there is no data.
        n_classes: logits; asked for where there is no data.
        labels: "given", or "teacher" for those of the network with its weights.
        task: name of a task of the user's, whose targets the data have; None for classes.
        groups: what may be pruned.
        device: where tasks are timed; None to compile for this machine and time nothing.
        storage: of the cost cache, which keeps what is timed.
        n_plans: random plans at which each form is compiled; 0 to compile none.
        is_exported: whether the compiler is asked at all.
        seed: of the drawn weights and plans.
    """

    network: str
    weights: Path | None = None
    data: str | None = None
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None
    labels: str = "given"
    task: str | None = None
    groups: GroupSettings = field(default_factory=GroupSettings)
    device: str | None = None
    storage: str | None = None
    n_plans: int = 3
    is_exported: bool = True
    seed: int = 0

    @property
    def has_weights(self) -> bool:
        """Whether the network's weights are trained, by a file of theirs or by its own."""
        return self.weights is not None or has_own_weights(self.network)


class _PartFailedError(Exception):
    """A part failed; its finding is kept, and the parts after it are not checked."""


def check_network(settings: CheckSettings, progress: ProgressLog) -> NetworkReport:
    """Check one network; a fault of the network is a finding, not an exception.

    Raises:
        ConfigError: the device or the cost cache cannot be opened as named.
        DeviceError: the device is gone.
    """
    return _NetworkCheck(settings, progress).run()


def require_sound_network(
    settings: CheckSettings, model: nn.Module, objective: Objective, progress: ProgressLog
) -> None:
    """Refuse a network that a run would trip over later.

    Args:
        settings: `input_shape` is that of the run's images.
        model: with the weights that the run begins with; left as it was.
        objective: of the run's training.

    Raises:
        ConfigError: an option is at fault, and not the network.
        ModelError: the first thing that failed, and how to see all.
    """
    check = _NetworkCheck(settings, progress)
    drawn = draw_statistics(randomize_zero_scales(model), settings.input_shape or ())
    check.run_on(drawn.eval(), objective)
    if check.wrong_option is not None:
        raise check.wrong_option
    failure = check.report().first_failure
    if failure is not None:
        more = f". `cprune-rl check --model {settings.network}` shows more"
        raise ModelError(
            f"{settings.network} cannot go the whole way; {failure.what}: "
            f"{failure.found.rstrip('.')}{'' if is_object(settings.network) else more}"
        )


class _NetworkCheck:
    def __init__(self, settings: CheckSettings, progress: ProgressLog) -> None:
        self._settings = settings
        self._progress = progress
        self._findings: list[Finding] = []
        self._input_shape = settings.input_shape or ()
        self._n_classes = settings.n_classes or 0
        self._data: ImageData | None = None
        self._coupled: CoupledGroups | None = None
        self._costs: TrialCosts | None = None
        self._step_s = 0.0
        self._layers: tuple[str, ...] = ()
        self.wrong_option: ConfigError | None = None

    def run(self) -> NetworkReport:
        """Read the images, build the network, and look at it."""
        with contextlib.suppress(_PartFailedError):
            self._read_images()
            model = self._build()
            self.run_on(model, self._find_objective(model))
        return self.report()

    def run_on(self, model: nn.Module, objective: Objective) -> None:
        """Go through all parts, as far as they go."""
        self._layers = _layers(model)
        with contextlib.suppress(_PartFailedError):
            self._check_forward(model, objective)
            self._check_accuracy(model)
            coupled = self._check_groups(model)
            self._check_pruned(model, coupled, objective)
            if self._settings.is_exported:
                self._check_compiled(model, coupled, objective)

    def _read_images(self) -> None:
        settings = self._settings
        name = settings.data
        if name is None:
            return
        with self._part("images"):
            task = None if settings.task is None else load_task(settings.task)
            self._data = load_data(
                name, labels=settings.labels, task=task, track=self._progress.track
            )
        self._input_shape = tuple(self._data.input_shape[1:])
        self._n_classes = self._data.n_classes
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self._data.splits.items())
        warnings = data_warnings(self._data) if settings.labels == "given" else []
        self._found(
            Finding(
                what="images",
                found="; ".join([sizes, *warnings]),
                status="warning" if warnings else "ok",
            )
        )

    def _build(self) -> nn.Module:
        settings = self._settings

        def build(n_classes: int) -> nn.Module:
            return build_model(settings.network, n_classes, settings.seed, self._input_shape[0])

        with self._part("network"):
            if self._data is not None and not self._n_classes:
                self._n_classes = n_answers(
                    self._data.name, settings.weights, build, self._example()
                )
            model = build(self._n_classes)
        if settings.weights is not None:
            with self._part("weights"):
                load_weights(model, settings.weights)
            found = f"{settings.weights} fits the network"
            self._found(Finding(what="weights", found=found))
        elif not settings.has_weights:
            model = draw_statistics(randomize_zero_scales(model), self._example().shape[1:])
        return model.eval()

    def _find_objective(self, model: nn.Module) -> Objective:
        """Give what is trained for, and have the network label the images where it is to."""
        settings = self._settings
        objective = Objective.of_classes(self._n_classes)
        if self._data is None:
            return objective
        if settings.task is not None:
            with self._part("task"):
                if settings.labels == "given":
                    check_task(model, self._data)
                objective = Objective.of_task(self._data, model)
            found = f"{settings.task} gives a loss with gradients, and judges every image"
            self._found(Finding(what="task", found=found))
        if settings.labels == "teacher":
            with self._part("labels"), self._progress.track("Asking it for labels", None):
                labelled_by_network(self._data, model)
            self._found(Finding(what="labels", found="the network's own answers differ by image"))
        return objective

    def _check_forward(self, model: nn.Module, objective: Objective) -> None:
        with self._progress.track("Running it with torch", None):
            shape = self._input_shape
            self._take(check_forward(model, shape, objective, self._settings.network))

    def _check_accuracy(self, model: nn.Module) -> None:
        settings = self._settings
        if self._data is None or not settings.has_weights or settings.labels == "teacher":
            return
        with self._progress.track("Judging it on the images", None):
            accuracy = evaluate(model, self._data.search)
            scale = describe_scale(model, self._data, _SCALE_IMAGES).message
        found = f"{accuracy:.2%} on {len(self._data.search):,} images"
        if scale:
            self._found(Finding(what="accuracy", found=f"{found}; {scale}", status="warning"))
            return
        if settings.task is not None or accuracy >= _NEAR_CHANCE / self._n_classes:
            self._found(Finding(what="accuracy", found=found))
            return
        wrong_scale = describe_scale(model, self._data).message
        found += ", hardly better than chance: "
        found += wrong_scale or "were the weights trained on other images, or on other labels?"
        self._found(Finding(what="accuracy", found=found, status="warning"))

    def _check_groups(self, model: nn.Module) -> CoupledGroups:
        with self._progress.track("Finding groups", None), self._part("groups"):
            coupled = find_groups(model, self._example(), self._settings.groups)
        self._coupled = coupled
        n_layers = len({layer for group in coupled.groups for layer in group.layers})
        found = f"{len(coupled.groups)} groups of {n_layers} layers can be pruned"
        self._found(Finding(what="groups", found=found))
        reasons = Counter(reason.partition(" (")[0] for _, reason in coupled.unprunable)
        if reasons:
            shown = [f"{reason} ({n})" for reason, n in reasons.most_common(_REASONS_SHOWN)]
            more = len(reasons) - len(shown)
            rest = f"; {more} other reasons" if more > 0 else ""
            found = "; ".join(shown) + rest
            self._found(Finding(what="left whole", found=found))
        return coupled

    def _check_pruned(self, model: nn.Module, coupled: CoupledGroups, objective: Objective) -> None:
        """Train the narrowest network for a step: what runs in training alone is cut, too."""
        narrowest = Plan(tuple(group.minimum for group in coupled.groups))
        pruned = prune(model, coupled, narrowest)
        what = "training mode, pruned"
        finding = check_training(pruned, self._input_shape, objective, what)
        if finding.status == "failed":
            self._take([finding])

    def _check_compiled(
        self, model: nn.Module, coupled: CoupledGroups, objective: Objective
    ) -> None:
        settings = self._settings
        with self._part("compiling"):
            findings, self._costs = check_compiled(
                settings, model, coupled, self._example(), self._progress
            )
        self._take(findings)
        if self._costs.trial_s:
            with self._progress.track("Timing a training step", None):
                self._step_s = time_train_step(model, self._input_shape, objective)

    def _example(self) -> torch.Tensor:
        return torch.zeros((1, *self._input_shape))

    def report(self) -> NetworkReport:
        """Give what was found so far."""
        settings = self._settings
        costs = self._costs or TrialCosts()
        minutes = {}
        if costs.trial_s:
            run_costs = RunCosts(
                n_tasks=costs.n_tasks,
                n_forms=len(costs.forms),
                trial_s=costs.trial_s,
                step_s=self._step_s,
                has_weights=settings.has_weights,
            )
            minutes = estimate_minutes(run_costs)
        groups = self._coupled.groups if self._coupled else ()
        prunable = {layer for group in groups for layer in group.layers}
        return NetworkReport(
            network=settings.network,
            input_shape=self._input_shape,
            n_classes=self._n_classes,
            findings=tuple(self._findings),
            groups={group.name: group.channels for group in groups},
            prunable_layers=tuple(layer for layer in self._layers if layer in prunable),
            layers=self._layers,
            left_whole=dict(self._coupled.unprunable) if self._coupled else {},
            forms=costs.forms,
            n_tasks=costs.n_tasks,
            n_rows=costs.n_rows,
            minutes=minutes,
        )

    @contextlib.contextmanager
    def _part(self, what: str) -> Iterator[None]:
        try:
            yield
        except CPruneError as error:
            if isinstance(error, ConfigError):
                self.wrong_option = error
            self._found(Finding(what=what, found=str(error), status="failed"))
            raise _PartFailedError from error

    def _take(self, findings: Iterable[Finding]) -> None:
        """Keep findings, and stop after a failure."""
        failed = False
        for finding in findings:
            self._found(finding)
            failed = failed or finding.status == "failed"
        if failed:
            raise _PartFailedError

    def _found(self, finding: Finding) -> None:
        self._findings.append(finding)


def _layers(model: nn.Module) -> tuple[str, ...]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return tuple(name for name, module in model.named_modules() if isinstance(module, kinds))
