"""The run folder: what a run leaves behind, and what `--resume` finds again."""

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

_OPTIONS = ("config.yaml", "command.txt", "system.json")  # what is there from the start


class RunFolder:
    """Files of one run.

    Args:
        path: the folder.
        config: its options.
        started: when the run began, in seconds since the epoch; what was cached since counts as its
            own.
    """

    def __init__(self, path: Path, config: RunConfig, started: float) -> None:
        self.path, self.config, self.started = path, config, started

    @staticmethod
    def create(config: RunConfig) -> RunFolder:
        """Makes a folder and writes `config.yaml`, `command.txt` and `system.json`.

        Raises:
            ConfigError: the folder has a run in it already, or cannot be made.
        """
        path = (
            config.out
            or Path("runs")
            / f"{_slug(config.network_name)}-{config.own_method}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
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
        options = {**config.model_dump(mode="json", exclude={"out"})}
        (path / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
        (path / "command.txt").write_text(command_line() + "\n")
        (path / "system.json").write_text(dump_json({"started": started, **describe_system()}))
        return RunFolder(path, config, started)

    @staticmethod
    def resume(path: Path) -> RunFolder:
        """Opens the folder of a run that ended early.

        Raises:
            ConfigError: it holds no run.
        """
        try:
            options = yaml.safe_load((path / "config.yaml").read_text())
            started = float(json.loads((path / "system.json").read_text())["started"])
            return RunFolder(
                path, RunConfig(**translate(options, is_quiet=True), out=path), started
            )
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} holds no run to resume: {error}") from error

    def discard_if_empty(self) -> None:
        """Takes the folder away where the run left nothing but its options:

        they were wrong, and the next one may have the same folder.
        """
        if {p.name for p in self.path.iterdir()} <= set(_OPTIONS):
            for name in _OPTIONS:
                self.file(name).unlink(missing_ok=True)
            self.path.rmdir()

    def file(self, name: str) -> Path:
        """Path of a file or a folder inside."""
        return self.path / name

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file whole or not at all."""
        temporary = self.file(name + ".part")
        temporary.write_text(dump_json(value))
        temporary.replace(self.file(name))

    def read_json(self, name: str) -> Any | None:
        """A file's value; None where it is not there yet."""
        return json.loads(self.file(name).read_text()) if self.file(name).exists() else None

    def log(self, phase: str, step: int, **values: float | str | None) -> None:
        """Adds rows to `metrics.csv`: seconds since the start, phase, step, name, value."""
        path = self.file("metrics.csv")
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["seconds", "phase", "step", "name", "value"])
            writer.writerows(
                [round(time.time() - self.started, 3), phase, step, name, value]
                for name, value in values.items()
            )


def _slug(name: str) -> str:
    """A network's name as part of a folder's: `/home/me/net.py:build` is `net-build`."""
    return re.sub(r"[^\w.]+", "-", name.rpartition("/")[2].replace(".py:", "-")).strip("-")
