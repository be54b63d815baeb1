"""The options of a run.

This file is the CLI's help, the YAML file's schema and what a run folder records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cprune_rl.compiler.tuning.budget import DENSE_WORTH_S, TuningBudget, TuningSettings
from cprune_rl.core.search_result import current_method
from cprune_rl.errors import ConfigError

__all__ = ["SCHEMES", "Budgets", "RunConfig", "load_config"]

DATA_FROM_PATHS = (
    "npz",
    "cifar10",
    "imagefolder",
)  # kinds of data whose argument is a file or a folder
SCHEMES = {
    "channel": {"search": "", "rule": ""},
    "block": {"search": "mapping-search", "rule": "mapping-rule"},
    "both": {"search": "channels-then-schemes", "rule": "channels-then-rule"},
}
"""What is pruned, how schemes are chosen, and by which search that is;

channels alone by the run's method.
"""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How much work each part of a run does; one set for real runs, one for `--fast`.

    Attributes:
        base_steps: training of the base network.
        finetune_steps: full fine-tune of finalists and calibration plans.
        oracle_steps: short fine-tune inside the loop.
        supernet_steps: of the supernet's training, where one is asked for.
        proof_plans: of equal latency, fine-tuned in full to see whether the supernet ranks them.
        tuning: how hard tasks are tuned.
        sweep: kept ratios of the plans measured for the cost model.
        scheme_sweep: densities at which every kind of scheme is measured for it, where layers are
            to be pruned so; the first is tuned as hard as the dense network.
        calibration: kept ratios of the plans fine-tuned in full to calibrate the oracle.
        scheme_calibration: densities of those that are pruned by schemes, in turns by kernels and
            by blocks.
        total_timesteps: of the agent's training.
        mapping_timesteps: of the training of the agent that gives layers schemes.
        turns: of the agent's search, see `agents.agent`.
        timing_rounds: interleaved rounds of the final timing.
    """

    base_steps: int = 3000
    finetune_steps: int = 1000
    oracle_steps: int = 50
    supernet_steps: int = 1200
    proof_plans: int = 10
    tuning: TuningSettings = field(default_factory=TuningSettings)
    sweep: tuple[float, ...] = (0.5,)
    scheme_sweep: tuple[float, ...] = (0.25, 0.0625)
    calibration: tuple[float, ...] = (0.8, 0.65, 0.5, 0.35)
    scheme_calibration: tuple[float, ...] = (0.5, 0.25, 0.35, 0.15)
    total_timesteps: int = 100_000
    mapping_timesteps: int = 20_000
    turns: int = 4
    timing_rounds: int = 60


FAST = Budgets(
    base_steps=1500,
    finetune_steps=200,
    oracle_steps=30,
    supernet_steps=300,
    proof_plans=6,
    tuning=TuningSettings(
        survey=TuningBudget(n_pool=2, n_random=2, n_max=2),
        dense=TuningBudget(n_pool=2, n_random=4, n_max=6, worth_s=DENSE_WORTH_S),
        near=TuningBudget(n_pool=2, n_random=1, n_max=3),
        n_shared=1,
    ),
    calibration=(0.75, 0.5),
    scheme_calibration=(0.5, 0.25),
    total_timesteps=6_144,
    mapping_timesteps=2_048,
    turns=2,
    timing_rounds=20,
)
EFFORTS = {
    "full": Budgets(),
    "light": Budgets(
        finetune_steps=500,
        calibration=(0.75, 0.5),
        scheme_calibration=(0.4, 0.2),
        tuning=TuningSettings(
            survey=TuningBudget(n_pool=4, n_random=8, n_max=8),
            dense=TuningBudget(n_pool=4, n_random=12, n_max=32, worth_s=DENSE_WORTH_S),
            near=TuningBudget(n_pool=3, n_random=1, n_max=4),
            n_shared=2,
        ),
    ),
    "quick": Budgets(
        finetune_steps=300,
        calibration=(0.65, 0.45),
        scheme_calibration=(0.4, 0.2),
        tuning=TuningSettings(
            survey=TuningBudget(n_pool=3, n_random=3, n_max=3),
            dense=TuningBudget(n_pool=4, n_random=8, n_max=16, worth_s=DENSE_WORTH_S),
            near=TuningBudget(n_pool=3, n_random=1, n_max=4),
            n_shared=1,
        ),
        turns=2,
        timing_rounds=40,
    ),
}


class RunConfig(BaseModel):
    """Options of a run; flags override the file, the file overrides these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "resnet8",
        description="Network to prune: packaged, torchvision:NAME, timm:NAME, or file.py:function, which is called with the number of classes.",
    )
    data: str = Field(
        "contours",
        description="Images to train and judge it on: contours, digits, cifar10:DIR, imagefolder:DIR?size=64, npz:FILE, or file.py:function.",
    )
    weights: Path | None = Field(
        None,
        description="Trained weights of the network, a state_dict in .pt or .safetensors; trained on the data where not given.",
    )
    device: str = Field(
        "local",
        description="Where to be fast: local, local?threads=2, rpc://host:port/key of a TVM tracker, or recorded:NAME, no device but a recording.",
    )
    oracle: str = Field(
        "finetune",
        description="How a search judges accuracy: finetune or finetune:STEPS, supernet (trained once, must rank as full fine-tunes do), or recalibrate.",
    )
    train_device: str = Field(
        "cpu",
        description="Where networks are trained and judged: cpu, or a GPU that torch sees, e.g. cuda.",
    )
    distillation: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the full fine-tune's loss that is the difference to the dense network's answers; the labels have the rest.",
    )
    finetune_steps: int | None = Field(
        None,
        gt=0,
        description="Steps of the full fine-tune, of finished networks and of those that the oracle is calibrated on, in the place of --effort's; longer keeps more.",
    )
    importance: str = Field(
        "l2", description="Which channels go first: l1, l2, fpgm, taylor or random."
    )
    freeze: tuple[str, ...] = Field(
        (), description="Layer to leave whole, e.g. stem or *.conv1; may be given several times."
    )
    keep: tuple[str, ...] = Field(
        (),
        description="Share of a layer's channels that always stays, e.g. layer4=0.5; 0.2 for the others; may be given several times.",
    )
    floor: float = Field(
        -0.01,
        description="Accuracy that must hold: -0.01 is one point below the dense network, 0.95 is absolute.",
    )
    margin: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Accuracy that a search keeps above the floor, as the final gate is not sure to the last image: 0.001 where the floor is as tight as -0.0025.",
    )
    front: tuple[float, ...] = Field(
        (),
        description="Prune for several floors in the place of one and compare them all, e.g. -0.005,-0.01,-0.02.",
    )
    top: int = Field(
        1,
        ge=1,
        description="An image counts as right where its label is among so many most likely classes, e.g. 5.",
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Of the final gate: how sure it is that a network which passes holds the floor.",
    )
    method: str = Field(
        "agent",
        description="What result.json is about: agent (cprune runs beside it as the rival) or cprune (alone).",
    )
    schemes: str = Field(
        "channel",
        description="channel: whole channels go. block: each layer gets a scheme (blocks, kernels, patterns). both: channels first, then schemes in what is left.",
    )
    mapping: str = Field(
        "search",
        description="How layers get their schemes: search, by an agent that begins with the rule; or rule, from a table of latencies on the device.",
    )
    mapping_policy: str | None = Field(
        None,
        description="Map with a policy trained before, a folder or a packaged one's name; trained on a model of this problem where not given.",
    )
    rival: bool = Field(True, description="Run CPrune beside the agent, to compare with.")
    rivals: tuple[str, ...] = Field(
        (),
        description="Other methods to run beside it, parted by commas, e.g. mdp,netadapt; `cprune-rl compare --list` says which there are.",
    )
    policy: str | None = Field(
        None,
        description="Prune with a policy trained before, a folder or a packaged one's name; trained on a model of this problem where not given.",
    )
    init: str | None = Field(
        None,
        description="Begin the training with this policy's weights, a folder or a packaged one's name.",
    )
    max_trials: int | None = Field(
        None, ge=0, description="A search ends when it has made so many fresh trials."
    )
    max_evaluations: int | None = Field(
        None, ge=0, description="A search ends when it has evaluated the accuracy of so many plans."
    )
    max_minutes: float | None = Field(
        None, gt=0, description="A search ends after so many minutes."
    )
    seed: int = Field(0, ge=0, description="Seed of training, programs and search.")
    out: Path | None = Field(None, description="Run folder; a new one under runs/ where not given.")
    storage: str | None = Field(
        None,
        description="Cost cache, e.g. sqlite:///costs.db; CPRUNE_RL_STORAGE or the user cache folder where not given.",
    )
    effort: str = Field(
        "full",
        description="full; light: a third of the trials (latencies a few percent higher), a coarser calibration; quick: a sixth, and half of the search.",
    )
    predict: float = Field(
        0.0,
        ge=0,
        description="Believe a predicted task whose 90 % interval is at most this far to each side, e.g. 0.1; 0 measures every task.",
    )
    no_measure: bool = Field(
        False,
        description="Search without measuring: latencies are predicted from what the cost cache holds of the device, however uncertain.",
    )
    fast: bool = Field(
        False,
        description="Go the same way in six to seven minutes: narrower network, fewer images, small budgets.",
    )

    @field_validator("floor")
    @classmethod
    def _floor_is_an_accuracy(cls, value: float) -> float:
        if not -1.0 <= value <= 1.0:
            raise ValueError(
                "give an accuracy in (0, 1], or e.g. -0.01 for one point below the dense network"
            )
        return value

    @field_validator("oracle")
    @classmethod
    def _oracle_is_one(cls, value: str) -> str:
        kind, colon, steps = value.partition(":")
        if kind not in ("finetune", "supernet", "recalibrate") or (
            colon and (kind != "finetune" or not steps.isdecimal() or int(steps) == 0)
        ):
            raise ValueError(f"{value!r}: give finetune, finetune:STEPS, supernet or recalibrate")
        return value

    @field_validator("front", mode="before")
    @classmethod
    def _front_is_floors(cls, value: Any) -> Any:
        items = [value] if isinstance(value, (str, float)) else list(value)
        floors = [float(part) for item in items for part in str(item).split(",") if part]
        if len(set(floors)) < len(floors) or any(not -1.0 <= f <= 1.0 for f in floors):
            raise ValueError(
                "give different accuracies, parted by commas, e.g. --front=-0.005,-0.01,-0.02"
            )
        return tuple(floors)

    @field_validator("rivals", mode="before")
    @classmethod
    def _rivals_are_names(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str) else list(value)
        names = [part.strip() for item in items for part in str(item).split(",")]
        return tuple(dict.fromkeys(current_method(n, warns=True) for n in names if n))

    @field_validator("freeze", "keep", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("method")
    @classmethod
    def _method_is_named_as_today(cls, value: str) -> str:
        return current_method(value, warns=True)

    @field_validator("keep")
    @classmethod
    def _keep_is_layers_and_shares(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                share = float(item.rpartition("=")[2])
            except ValueError:
                share = 0.0
            if not 0 < share <= 1 or not item.rpartition("=")[0]:
                raise ValueError(
                    f"{item!r}: give a layer and the share of its channels that stays, e.g. layer4=0.5"
                )
        return value

    @property
    def own_method(self) -> str:
        """What result.json is about: `method`, unless layers are pruned by schemes."""
        return SCHEMES[self.schemes][self.mapping] or self.method

    @property
    def floors(self) -> tuple[float, ...]:
        """Floors that the network is pruned for, one or several."""
        return self.front or (self.floor,)

    @property
    def has_schemes(self) -> bool:
        """Whether layers may be pruned by schemes."""
        return self.schemes != "channel"

    @property
    def kept_shares(self) -> dict[str, float]:
        """`keep` by layer."""
        return {
            layer: float(share) for layer, _, share in (item.rpartition("=") for item in self.keep)
        }

    @property
    def budgets(self) -> Budgets:
        """How much work the parts do."""
        budgets = FAST if self.fast else EFFORTS[self.effort]
        return (
            budgets
            if self.finetune_steps is None
            else replace(budgets, finetune_steps=self.finetune_steps)
        )

    @property
    def network_name(self) -> str:
        """The network that is built:

        `--fast` takes the default one at half its width, but for a recording, which is of one
        width.
        """
        return (
            "resnet8-w8"
            if self.fast and self.model == "resnet8" and not self.device.startswith("recorded:")
            else self.model
        )


def load_config(
    file: Path | None, flags: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> RunConfig:
    """Joins flags, a YAML file and the defaults.

    Args:
        file: YAML with any of the options; None for none.
        flags: options given on the command line; a None is not given.
        defaults: of the command, in the place of the usual ones.

    Raises:
        ConfigError: the file is missing or no YAML, or an option is unknown or wrong.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read {file}: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file} must hold options such as `floor: -0.02`, one a line")
    values |= {name: value for name, value in flags.items() if value is not None}
    if values.get("init") is not None:  # a policy to train further: none is taken as it is
        defaults = {name: value for name, value in (defaults or {}).items() if name != "policy"}
    values = {**(defaults or {}), **values}
    for name in ("policy", "init", "mapping_policy"):
        if isinstance(values.get(name), str) and Path(values[name]).expanduser().is_dir():
            values[name] = str(Path(values[name]).expanduser().resolve())
    values |= {
        name: _with_whole_path(values[name])
        for name in ("model", "data")
        if isinstance(values.get(name), str)
    }
    if values.get("weights") is not None:
        values["weights"] = Path(values["weights"]).expanduser().resolve()
    try:
        return RunConfig(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"{problems}. Known options: {', '.join(RunConfig.model_fields)}."
        ) from error


def _with_whole_path(name: str) -> str:
    """`npz:mine.npz` or `mynet.py:build` with the whole path of its file:

    the run folder is looked into from anywhere.
    """
    left, mark, options = name.partition("?")
    first, colon, second = left.rpartition(":") if ".py:" in left else left.partition(":")
    if first.endswith(".py"):
        first = str(Path(first).expanduser().resolve())
    elif first in DATA_FROM_PATHS and second and Path(second).expanduser().exists():
        second = str(Path(second).expanduser().resolve())
    return f"{first}{colon}{second}{mark}{options}"
