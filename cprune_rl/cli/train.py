"""`cprune-rl train`: each option's help is its description in `RunConfig`."""

from __future__ import annotations

from typing import Any

import typer

from cprune_rl.cli.options import given, with_options
from cprune_rl.cli.prune import Config, Resume, run

__all__ = ["register"]

_OLD_POLICY_OPTIONS = (
    "problems",
    "device_class",
    "held_out",
    "timesteps",
    "learner",
    "variants",
    "workers",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    from cprune_rl.pipeline.config import RunConfig
    from cprune_rl.pipeline.old_options import OLD_OPTIONS

    app.command("train")(with_options(train, RunConfig, old=[*OLD_OPTIONS, *_OLD_POLICY_OPTIONS]))


def train(config: Config = None, resume: Resume = None, **flags: Any) -> None:
    """Train a pruning agent for a network on a device, and prune the network with it."""
    flags = given(flags)
    if any(name in flags for name in _OLD_POLICY_OPTIONS):
        from cprune_rl.cli.train_policy import train_policy_as_before

        train_policy_as_before({**flags, **given({"config": config, "resume": resume})})
        return
    run(config, resume, flags, beside=("cprune",))
