"""The options of a policy's training over many problems: the help, and what its folder keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import list_problems, split_commas
from cprune_rl.pipeline.described_option import option
from cprune_rl.pipeline.old_options import translate

__all__ = ["PolicyConfig", "load_policy_config"]

_PANELS = ("Problems", "Training", "Files")


class PolicyConfig(BaseModel):
    """Options of a policy's training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: tuple[str, ...] = option(
        _PANELS[0],
        (),
        "Recorded problems to train on, and variants of them, parted by commas; see "
        "`cprune-rl problems list`.",
        shown="those of --device-class",
        complete="problems",
    )
    device_class: str | None = option(
        _PANELS[0],
        None,
        "Train on the recordings of a class of devices: znver4-1t, or a pattern such as "
        "'znver4-*' or '*'.",
        shown="none",
    )
    held_out: tuple[str, ...] = option(
        _PANELS[0],
        (),
        "Problems, or networks, that are not trained on: the policy is tried on them as it goes.",
        shown="none",
        complete="problems",
    )
    change: str = option(
        _PANELS[0],
        "channels",
        "What the policy chooses among: channels, or schemes, on recordings that have them.",
    )
    variants: int = option(
        _PANELS[0],
        256,
        "Networks of other widths and depths, made of the recorded ones; 0 trains on those alone.",
        ge=0,
    )
    timesteps: int = option(_PANELS[1], 100_000, "Environment steps.", ge=0)
    learner: str = option(
        _PANELS[1],
        "ppo",
        "ppo (MaskablePPO) or dqn, behind the same network.",
        complete="learners",
    )
    workers: int | None = option(
        _PANELS[1],
        None,
        "Processes that step the environments; 0 steps them in this one.",
        shown="one a core, eight at most",
        ge=0,
    )
    init: str | None = option(
        _PANELS[1],
        None,
        "Policy to begin with: a folder, or the name of a packaged one.",
        shown="random weights",
        complete="policies",
    )
    seed: int = option(_PANELS[1], 0, "Seed of problems, environments and weights.", ge=0)
    out: Path | None = option(
        _PANELS[2], None, "Folder of the policy.", shown="policies/ and its problems' names"
    )

    @field_validator("change")
    @classmethod
    def _check_change(cls, value: str) -> str:
        if value not in ("channels", "schemes"):
            raise ValueError(f"{value!r}: give channels or schemes")
        return value

    @field_validator("problems", "held_out", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(split_commas(value)) if isinstance(value, (str, list, tuple)) else value

    @property
    def has_schemes(self) -> bool:
        """Whether the policy chooses schemes."""
        return self.change == "schemes"


def load_policy_config(values: Mapping[str, Any]) -> PolicyConfig:
    """Check the options.

    Raises:
        ConfigError: one is unknown or wrong.
    """
    try:
        return PolicyConfig.model_validate(translate(values))
    except ValidationError as error:
        raise ConfigError(
            f"{list_problems(error)}. Options of a policy's training: "
            f"{', '.join(PolicyConfig.model_fields)}."
        ) from error
