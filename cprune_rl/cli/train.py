"""`cprune-rl train` and `cprune-rl prune`:

every option's help is its description in `RunConfig` or `PolicyConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cprune_rl.cli.options import given, with_options
from cprune_rl.errors import ConfigError, CPruneError, DeviceError, StoreError, ToolchainError

if TYPE_CHECKING:
    from cprune_rl.pipeline.run_folder import RunFolder

__all__ = ["register"]

_INTERRUPTED = 130
_ONLY_POLICY = (
    "problems",
    "device_class",
    "held_out",
    "timesteps",
    "learner",
    "variants",
    "workers",
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    from cprune_rl.pipeline.config import RunConfig
    from cprune_rl.pipeline.policy_config import PolicyConfig

    app.command("train")(
        with_options(train, {"A run": RunConfig, "A policy for many problems": PolicyConfig})
    )
    app.command("prune")(with_options(prune, {"A run": RunConfig}))


def train(
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a run's options, or a live problem's name; flags override it.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of a run that ended early: go on with it, with its options.",
            show_default=False,
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Train a pruning agent for a network on a device and prune the network with it;

    with --problems or --device-class, train one policy for many.
    """
    flags = given(flags)
    if "problems" in flags or "device_class" in flags:
        _train_policy(
            {
                **flags,
                **({"config": config} if config else {}),
                **({"resume": resume} if resume else {}),
            }
        )
        return
    if stray := [name for name in _ONLY_POLICY if name in flags]:
        raise ConfigError(
            f"--{stray[0].replace('_', '-')} is for training one policy for many problems: say which by --problems or --device-class"
        )
    _run(config, resume, flags)


def prune(
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with any of the options below, or a live problem's name; flags override it.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of a run that ended early: go on with it, with its options.",
            show_default=False,
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Prune a network with a policy that was trained before:

    the packaged one for x86 processors, or --policy.
    """
    from cprune_rl.agents.policies import DEFAULT

    flags = given(flags)
    _run(config, resume, flags, {"policy": DEFAULT, "rival": False})


def _train_policy(flags: dict[str, Any]) -> None:
    from cprune_rl.pipeline.policy_config import PolicyConfig, load_policy_config

    if stray := [name for name in flags if name not in PolicyConfig.model_fields]:
        raise ConfigError(
            f"--{stray[0].replace('_', '-')} is of a run: a policy for many problems is trained on recordings, by {', '.join(PolicyConfig.model_fields)}"
        )
    options = load_policy_config(flags)
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.train_policy import train_on_problems

    progress = ProgressLog()
    try:
        with progress.interruptible():
            train_on_problems(options, progress)
    except KeyboardInterrupt:
        progress.print("Stopped. The last checkpoint is kept; the same command goes on from it.")
        raise typer.Exit(_INTERRUPTED) from None


def _run(
    config: Path | None,
    resume: Path | None,
    flags: dict[str, Any],
    defaults: dict[str, Any] | None = None,
) -> None:
    from cprune_rl.pipeline.config import load_config
    from cprune_rl.pipeline.live_problems import is_live, live_options
    from cprune_rl.pipeline.run_folder import RunFolder
    from cprune_rl.pipeline.setup import check_names

    if resume is not None:
        if stray := [*flags, *(["config"] if config is not None else [])]:
            raise ConfigError(
                f"--resume goes on with the options of {resume}: leave --{stray[0].replace('_', '-')} out, or start a new run with it"
            )
        folder = RunFolder.resume(resume)
        check_names(folder.config)
    else:
        named = (
            live_options(str(config))
            if config is not None and not config.is_file() and is_live(str(config))
            else None
        )
        options = (
            load_config(config, flags, defaults)
            if named is None
            else load_config(None, {**named, **flags}, defaults)
        )
        if options.front and (stray := [name for name in ("floor", "rival") if name in flags]):
            raise ConfigError(
                f"--front has floors of its own and no rival beside them: leave --{stray[0]} out"
            )
        check_names(options)
        folder = RunFolder.create(options)
    _go(folder)


def _go(folder: RunFolder) -> None:
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.run import run

    progress = ProgressLog()
    try:
        with progress.interruptible():
            run(folder, progress)
    except KeyboardInterrupt:
        progress.print(
            f"Stopped. What was measured and trained is kept; go on with --resume {folder.path}"
        )
        raise typer.Exit(_INTERRUPTED) from None
    except (DeviceError, StoreError, ToolchainError) as error:
        raise type(error)(
            f"{str(error).rstrip('.')}. What was measured and trained is kept; go on with --resume {folder.path}"
        ) from error
    except CPruneError:
        folder.discard_if_empty()
        raise
    except OSError as error:  # a full disk, a folder that went away
        raise OSError(f"{error}. Go on with --resume {folder.path}") from error
