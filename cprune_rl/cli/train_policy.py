"""`cprune-rl train-policy`: each option's help is its description in `PolicyConfig`."""

from __future__ import annotations

import warnings
from typing import Any

import typer

from cprune_rl.cli.options import given, with_options
from cprune_rl.core.sigterm import exit_status
from cprune_rl.errors import ConfigError

__all__ = ["register", "train_policy_as_before"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    from cprune_rl.pipeline.policy_config import PolicyConfig

    app.command("train-policy")(with_options(train_policy, PolicyConfig, old=["schemes"]))


def train_policy(**flags: Any) -> None:
    """Train one policy for many recorded problems."""
    _train(given(flags))


def train_policy_as_before(flags: dict[str, Any]) -> None:
    """Train a policy by the options that `cprune-rl train` took for it in version 0.2.

    Raises:
        ConfigError: an option is of a run.
    """
    from cprune_rl.pipeline.old_options import OldOptionWarning
    from cprune_rl.pipeline.policy_config import PolicyConfig

    if "problems" not in flags and "device_class" not in flags:
        first = next(name for name in flags if name in PolicyConfig.model_fields)
        raise ConfigError(
            f"--{first.replace('_', '-')} is for training one policy for many problems: use "
            "`cprune-rl train-policy`, and say which by --problems or --device-class"
        )
    known = {*PolicyConfig.model_fields, "schemes"}
    if stray := [name for name in flags if name not in known]:
        raise ConfigError(
            f"--{stray[0].replace('_', '-')} is of a run: a policy for many problems is trained "
            f"on recordings, by {', '.join(PolicyConfig.model_fields)}"
        )
    warnings.warn(
        "`cprune-rl train --problems` is an old spelling: use `cprune-rl train-policy`",
        OldOptionWarning,
        stacklevel=2,
    )
    _train(flags)


def _train(flags: dict[str, Any]) -> None:
    from cprune_rl.pipeline.policy_config import load_policy_config

    options = load_policy_config(flags)
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.train_policy import train_on_problems

    progress = ProgressLog()
    try:
        with progress.interruptible():
            train_on_problems(options, progress)
    except KeyboardInterrupt as stop:
        progress.print("Stopped. The last checkpoint is kept; the same command goes on from it.")
        raise typer.Exit(exit_status(stop)) from None
