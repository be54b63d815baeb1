"""Reads and writes the folder that a run leaves behind."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import yaml

from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.core.untrusted import DAMAGED, damage, number, read_json, read_yaml
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.old_options import translate

__all__ = ["RunFolder"]

_AT_START = ("config.yaml", "command.txt", "system.json")
_LOCK = ".lock"
_RUNS = Path("runs")


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
        path = config.out or _new_folder(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {path}: {error}") from error
        started = time.time()
        folder = RunFolder(path, config, started)
        options = config.model_dump(mode="json", exclude={"out"})
        with folder.lock():
            if (path / "config.yaml").exists():
                raise ConfigError(
                    f"{path} holds a run already: go on with it by --resume {path}, "
                    "or give another --out"
                )
            write_text(path / "command.txt", command_line() + "\n")
            write_text(path / "system.json", dump_json({"started": started, **describe_system()}))
            # The last: a folder that has it has the others.
            write_text(path / "config.yaml", yaml.safe_dump(options, sort_keys=False))
        return folder

    @staticmethod
    def resume(path: Path) -> RunFolder:
        """Open the folder of a run that ended early.

        Raises:
            ConfigError: it holds no run.
        """
        try:
            options = read_yaml(path / "config.yaml")
            started = read_json(path / "system.json")["started"]
            # 0.2 did not say: the floors of its searches were counted from the network as given.
            options.setdefault("floor_from", "given")
            config = RunConfig(**translate(options, is_quiet=True), out=path)
            if options.get("front"):
                config = config.as_front()
            return RunFolder(path, config, number(started, "system.json: started", 0.0))
        except DAMAGED as error:
            raise ConfigError(f"{path} holds no run to resume: {damage(error)}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working on this run. The lock ends with the process.

        Raises:
            ConfigError: another process works on it, or no lock can be had on its disk.
        """
        lock = filelock.FileLock(self.file(_LOCK), blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise ConfigError(
                f"{self.path} is a run in progress: wait until it ends, or stop it and resume it "
                "then"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"cannot write into {self.path}: {damage(error)}. Name another place with --out"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def discard_if_empty(self) -> None:
        """Remove the folder where the run left nothing but its options.

        The options were wrong, and the next run may have the same folder. One that another process
        works on stays.
        """
        with contextlib.suppress(ConfigError), self.lock():
            if {file.name for file in self.path.iterdir()} <= {*_AT_START, _LOCK}:
                for name in (*_AT_START, _LOCK):
                    self.file(name).unlink(missing_ok=True)
                self.path.rmdir()
                if self.path.parent == _RUNS:
                    with contextlib.suppress(OSError):  # it holds other runs
                        _RUNS.rmdir()

    def file(self, name: str) -> Path:
        """Give the path of a file or a folder inside."""
        return self.path / name

    def write_json(self, name: str, value: Any) -> None:
        """Write a file whole or not at all."""
        write_text(self.file(name), dump_json(value))

    def read_json(self, name: str) -> Any | None:
        """Read a file; None where it is not there yet.

        Raises:
            ConfigError: it is damaged.
        """
        file = self.file(name)
        try:
            return read_json(file) if file.exists() else None
        except DAMAGED as error:
            raise ConfigError(f"{file} cannot be read: {damage(error)}") from error

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


def _new_folder(config: RunConfig) -> Path:
    """Make a folder of its own: two runs may begin in one second."""
    name = _new_name(config)
    for attempt in itertools.count(1):
        path = _RUNS / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"cannot make the run folder {path}: {error}. Name another place with --out"
            ) from error
        return path
    raise AssertionError("names do not end")


def _new_name(config: RunConfig) -> str:
    """Name a folder by the network, the method and the time.

    `/home/me/net.py:build` becomes `net-build`.
    """
    file = config.network_name.rpartition("/")[2].replace(".py:", "-")
    network = re.sub(r"[^\w.]+", "-", file).strip("-")
    return f"{network}-{config.own_method}-{time.strftime('%Y%m%d-%H%M%S')}"
