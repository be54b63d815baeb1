"""Live problems by name: a run's options, kept as a file beside a user's recordings.

A recording answers without a compiler, a device or images; a live problem needs all three, and is
true. Agents are trained
for many problems on recordings; a live one is pruned, or opened as an environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cprune_rl.envs.problems.registry import (
    LIVE_ENDING,
    check_new_name,
    problems_folder,
    split_floor,
)
from cprune_rl.errors import ConfigError, UnknownNameError
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.old_options import translate
from cprune_rl.pipeline.setup import check_names

__all__ = ["add_live_problem", "is_live", "live_names", "live_options", "remove_live_problem"]


def live_names() -> list[str]:
    """Names of the live problems, in order."""
    folder = problems_folder()
    return (
        sorted(file.name.removesuffix(LIVE_ENDING) for file in folder.glob(f"*{LIVE_ENDING}"))
        if folder.is_dir()
        else []
    )


def is_live(name: str) -> bool:
    """Whether a live problem has this name, with or without a floor at its end."""
    return split_floor(name)[0] in live_names()


def live_options(name: str) -> dict[str, Any]:
    """Options of a run on a live problem, as `RunConfig` has them.

    Args:
        name: may end in a floor, which takes the place of its own.

    Raises:
        UnknownNameError: there is none of that name.
    """
    bare, floor = split_floor(name)
    file = _file(bare)
    options = translate(yaml.safe_load(file.read_text()), is_quiet=True)
    return options if floor is None else {**options, "floor": floor}


def add_live_problem(file: Path, name: str) -> str:
    """Gives a run's options a name.

    Args:
        file: YAML, as `--config` takes it; paths of networks, images, weights and policies are
            taken from the working folder, and kept whole.
        name: `<model>@<device>`.

    Returns:
        The name.

    Raises:
        ConfigError: the file is missing or no YAML, an option is unknown, wrong or not for live
            problems, or nothing has the name of its model, data or device.
        DataError: the name is no such name, or it is taken; or weights or images are not there.
    """
    check_new_name(name)
    config = load_config(file, {})
    check_names(config)
    if config.out is not None or config.device.startswith("recorded:"):
        raise ConfigError(
            "a live problem is measured, and each run on it has a folder of its own: leave `out` "
            "and recorded devices out of it"
        )
    folder = problems_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{LIVE_ENDING}").write_text(
        yaml.safe_dump(json.loads(config.model_dump_json(exclude_unset=True)))
    )
    return name


def remove_live_problem(name: str) -> None:
    """Takes a live problem away.

    Raises:
        UnknownNameError: there is none of that name.
    """
    _file(name).unlink()


def _file(name: str) -> Path:
    names = live_names()
    if name not in names:
        raise UnknownNameError("live problem", name, names)
    return problems_folder() / f"{name}{LIVE_ENDING}"
