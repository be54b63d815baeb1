"""The options of a run. This file is the CLI's help, the YAML file's schema and what a run folder records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cprune_rl.errors import ConfigError, UnknownNameError

__all__ = ["METHODS", "Budgets", "RunConfig", "load_config"]

METHODS = {"agent": "MaskablePPO with the row-shared policy", "greedy": "greedy CPrune, repaired"}


@dataclass(frozen=True)
class Budgets:
    """How much work each part of a run does; one set for real runs, one for `--fast`.

    Attributes:
        base_steps: training of the base network.
        finetune_steps: full fine-tune of finalists and calibration plans.
        oracle_steps: short fine-tune inside the loop.
        dense_programs: random programs for each task of the dense network.
        pool_programs: programs carried over to each new shape.
        random_programs: random programs for each new shape.
        sweep: kept ratios of the plans measured for the cost model.
        calibration: kept ratios of the plans fine-tuned in full to calibrate the oracle.
        total_timesteps: of the agent's training.
        exchange_programs: programs that each task offers to its family before the final comparison.
        timing_rounds: interleaved rounds of the final timing.
    """

    base_steps: int = 3000
    finetune_steps: int = 1000
    oracle_steps: int = 50
    dense_programs: int = 48
    pool_programs: int = 4
    random_programs: int = 3
    sweep: tuple[float, ...] = (0.8, 0.6, 0.4)
    calibration: tuple[float, ...] = (0.8, 0.65, 0.5, 0.35)
    total_timesteps: int = 100_000
    exchange_programs: int = 4
    timing_rounds: int = 60


FAST = Budgets(
    base_steps=1500, finetune_steps=200, oracle_steps=30, dense_programs=12, pool_programs=2, random_programs=1,
    sweep=(0.6,), calibration=(0.75, 0.5), total_timesteps=6_144, exchange_programs=1, timing_rounds=20,
)  # fmt: skip


class RunConfig(BaseModel):
    """Options of a run; flags override the file, the file overrides these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("resnet8", description="Network to prune, by name.")
    data: str = Field("contours", description="Data set to train and judge it on.")
    device: str = Field("local", description="Where to be fast: local, or local?threads=2&mcpu=haswell.")
    floor: float = Field(-0.01, description="Accuracy that must hold: -0.01 is one point below the dense network, 0.95 is absolute.")
    method: str = Field("agent", description="What result.json is about: agent (greedy runs beside it as the rival) or greedy (alone).")
    seed: int = Field(0, ge=0, description="Seed of training, programs and search.")
    out: Path | None = Field(None, description="Run folder; a new one under runs/ where not given.")
    storage: str | None = Field(None, description="Cost cache, e.g. sqlite:///costs.db; CPRUNE_RL_STORAGE or the user cache folder where not given.")
    fast: bool = Field(False, description="Go the same way in three to four minutes: narrower network, fewer images, small budgets.")

    @field_validator("floor")
    @classmethod
    def _floor_is_an_accuracy(cls, value: float) -> float:
        if not -1.0 <= value <= 1.0:
            raise ValueError("give an accuracy in (0, 1], or e.g. -0.01 for one point below the dense network")
        return value

    @property
    def budgets(self) -> Budgets:
        """How much work the parts do."""
        return FAST if self.fast else Budgets()

    @property
    def network_name(self) -> str:
        """The network that is built: `--fast` takes the default one at half its width."""
        return "resnet8-w8" if self.fast and self.model == "resnet8" else self.model

    def check_names(self) -> None:
        """Fails early on a name that nothing is registered under.

        Raises:
            UnknownNameError: of a model, a data set, a device or a method.
            ConfigError: an option of the device is wrong.
        """
        from cprune_rl.accuracy.data import DATA_SETS
        from cprune_rl.compiler.device import parse_device
        from cprune_rl.pruning.zoo import MODELS

        known: tuple[tuple[str, str, Mapping[str, Any]], ...] = (("model", self.model, MODELS), ("data", self.data, DATA_SETS), ("method", self.method, METHODS))
        for kind, name, names in known:
            if name not in names:
                raise UnknownNameError(kind, name, names)
        parse_device(self.device)


def load_config(file: Path | None, flags: Mapping[str, Any]) -> RunConfig:
    """Joins flags, a YAML file and the defaults.

    Args:
        file: YAML with any of the options; None for none.
        flags: options given on the command line; a None is not given.

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
    try:
        return RunConfig(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{problems}. Known options: {', '.join(RunConfig.model_fields)}.") from error
