"""The options of a policy's training over many problems:

the CLI's help, and what the policy's folder records.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cprune_rl.errors import ConfigError

__all__ = ["PolicyConfig", "load_policy_config"]


class PolicyConfig(BaseModel):
    """Options of a policy's training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: tuple[str, ...] = Field(
        (),
        description="Recorded problems to train a policy on, and variants of them; see `cprune-rl problems list`.",
    )
    device_class: str | None = Field(
        None,
        description="Train on the recordings of a class of devices: znver4-1t, or a pattern such as 'znver4-*' or '*'.",
    )
    held_out: tuple[str, ...] = Field(
        (),
        description="Problems, or networks, that are not trained on: the policy is tried on them as it goes.",
    )
    schemes: str = Field(
        "channel",
        description="What the policy chooses among: channel, narrower groups; or block, schemes of layers, on recordings that have them.",
    )
    timesteps: int = Field(100_000, ge=0, description="Environment steps.")
    learner: str = Field("ppo", description="ppo (MaskablePPO) or dqn, behind the same network.")
    variants: int = Field(
        256,
        ge=0,
        description="Networks of other widths and depths, made of the recorded ones; 0 trains on those alone.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="Processes that step the environments; 0 steps them in this one; where not given one a core, eight at most.",
    )
    init: str | None = Field(
        None, description="Policy to begin with: a folder, or the name of a packaged one."
    )
    seed: int = Field(0, ge=0, description="Seed of problems, environments and weights.")
    out: Path | None = Field(
        None, description="Folder of the policy; policies/ and its problems' names where not given."
    )

    @field_validator("schemes")
    @classmethod
    def _menu_is_one(cls, value: str) -> str:
        if value not in ("channel", "block"):
            raise ValueError(f"{value!r}: give channel or block")
        return value

    @field_validator("problems", "held_out", mode="before")
    @classmethod
    def _commas_part(cls, value: object) -> object:
        items = (value,) if isinstance(value, str) else value
        return (
            tuple(part for item in items for part in str(item).split(",") if part)
            if isinstance(items, (tuple, list))
            else value
        )


def load_policy_config(values: dict[str, object]) -> PolicyConfig:
    """The options, checked.

    Raises:
        ConfigError: one is unknown or wrong.
    """
    try:
        return PolicyConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"{problems}. Options of a policy's training: {', '.join(PolicyConfig.model_fields)}."
        ) from error
