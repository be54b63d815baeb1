"""Reads and writes the folder that a run leaves behind."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import yaml

from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.old_options import translate

__all__ = ["RunFolder"]

_AT_START = ("config.yaml", "command.txt", "system.json")


class RunFolder:
    """The files of one run.

    Args:
        started: when the run began, in seconds since the epoch.
    """

    def __init__(self, path: Path, config: RunConfig, started: float) -> None:
        self.path = path
        self.config = config
        self.started = started

    @staticmethod
    def create(config: RunConfig) -> RunFolder:
        """Make a folder, with `config.yaml`, `command.txt` and `system.json` in it.

        Raises:
            ConfigError: the folder has a run in it already, or cannot be made.
        """
        path = config.out or Path("runs") / _new_name(config)
        if (path / "config.yaml").exists():
            raise ConfigError(
                f"{path} holds a run already: go on with it by --resume {path}, "
                "or give another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {path}: {error}") from error
        started = time.time()
        options = config.model_dump(mode="json", exclude={"out"})
        (path / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
        (path / "command.txt").write_text(command_line() + "\n")
        (path / "system.json").write_text(dump_json({"started": started, **describe_system()}))
        return RunFolder(path, config, started)

    @staticmethod
    def resume(path: Path) -> RunFolder:
        """Open the folder of a run that ended early.

        Raises:
            ConfigError: it holds no run.
        """
        try:
            options = yaml.safe_load((path / "config.yaml").read_text())
            started = float(json.loads((path / "system.json").read_text())["started"])
            # 0.2 did not say: the floors of its searches were counted from the network as given.
            options.setdefault("floor_from", "given")
            config = RunConfig(**translate(options, is_quiet=True), out=path)
            return RunFolder(path, config, started)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} holds no run to resume: {error}") from error

    def discard_if_empty(self) -> None:
        """Remove the folder where the run left nothing but its options.

        The options were wrong, and the next run may have the same folder.
        """
        if {file.name for file in self.path.iterdir()} <= set(_AT_START):
            for name in _AT_START:
                self.file(name).unlink(missing_ok=True)
            self.path.rmdir()

    def file(self, name: str) -> Path:
        """Give the path of a file or a folder inside."""
        return self.path / name

    def write_json(self, name: str, value: Any) -> None:
        """Write a file whole or not at all."""
        temporary = self.file(f"{name}.part")
        temporary.write_text(dump_json(value))
        temporary.replace(self.file(name))

    def read_json(self, name: str) -> Any | None:
        """Read a file; None where it is not there yet."""
        file = self.file(name)
        return json.loads(file.read_text()) if file.exists() else None

    def log(self, phase: str, step: int, **values: float | str | None) -> None:
        """Add rows to `metrics.csv`: seconds since the start, phase, step, name, value."""
        path = self.file("metrics.csv")
        is_new = not path.exists()
        seconds = round(time.time() - self.started, 3)
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["seconds", "phase", "step", "name", "value"])
            for name, value in values.items():
                writer.writerow([seconds, phase, step, name, value])


def _new_name(config: RunConfig) -> str:
    """Name a folder by the network, the method and the time.

    `/home/me/net.py:build` becomes `net-build`.
    """
    file = config.network_name.rpartition("/")[2].replace(".py:", "-")
    network = re.sub(r"[^\w.]+", "-", file).strip("-")
    return f"{network}-{config.own_method}-{time.strftime('%Y%m%d-%H%M%S')}"
