"""Live problems by name: the options of a run, kept as a file beside a user's recordings.

A recording answers without a compiler, a device or images. A live problem needs all three, and its
answers are true. It can be pruned, or opened as an environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.untrusted import DAMAGED, damage, read_yaml
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
    """List the names of live problems, in order."""
    files = problems_folder().glob(f"*{LIVE_ENDING}")
    return sorted(file.name.removesuffix(LIVE_ENDING) for file in files)


def is_live(name: str) -> bool:
    """Say whether a live problem has this name, with or without a floor at its end."""
    return split_floor(name)[0] in live_names()


def live_options(name: str) -> dict[str, Any]:
    """Read the options of a run on a live problem, as `RunConfig` has them.

    Args:
        name: may end in a floor, which takes the place of the problem's own.

    Raises:
        UnknownNameError: no live problem has that name.
        ConfigError: its file is damaged.
    """
    bare_name, floor = split_floor(name)
    file = _file(bare_name)
    try:
        options = translate(read_yaml(file), is_quiet=True)
    except DAMAGED as error:
        raise ConfigError(
            f"{file} has no options of a run: {damage(error)}. "
            f"Remove it with `cprune-rl problems remove {bare_name}`"
        ) from error
    return options if floor is None else {**options, "floor": floor}


def add_live_problem(file: Path, name: str) -> str:
    """Give a run's options a name.

    Args:
        file: YAML, as `--config` takes it. Paths of networks, images, weights and policies are
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
            "a live problem is measured, and each run on it has a folder of its own: "
            "leave `out` and recorded devices out of it"
        )
    folder = problems_folder()
    folder.mkdir(parents=True, exist_ok=True)
    options = json.loads(config.model_dump_json(exclude_unset=True))
    write_text(folder / f"{name}{LIVE_ENDING}", yaml.safe_dump(options))
    return name


def remove_live_problem(name: str) -> None:
    """Take a live problem away.

    Raises:
        UnknownNameError: no live problem has that name.
    """
    _file(name).unlink()


def _file(name: str) -> Path:
    names = live_names()
    if name not in names:
        raise UnknownNameError("live problem", name, names)
    return problems_folder() / f"{name}{LIVE_ENDING}"
