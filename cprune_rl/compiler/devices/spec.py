"""Devices by name: reads a name without opening anything (`open.py` opens one).

Neither this file nor a wrong name loads tvm, so a mistake is answered at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import psutil

from cprune_rl.compiler.devices.tracker_client import TrackerAddress
from cprune_rl.errors import ConfigError, UnknownNameError

__all__ = [
    "EXAMPLES",
    "LocalSpec",
    "RecordedSpec",
    "TargetOptions",
    "TrackerSpec",
    "parse_device",
]

TargetOptions = dict[str, "str | int | list[str]"]
EXAMPLES = (
    "local",
    "local?threads=2",
    "local?threads=1&mcpu=haswell",
    "rpc://host:9190/key",
    "rpc://host:9190/key?target=llvm,mtriple=aarch64-linux-gnu,num-cores=4&threads=4",
    "recorded:resnet8@znver4-1t?noise=1",
)


@dataclass(frozen=True)
class LocalSpec:
    """This machine.

    Attributes:
        threads: that a program may use.
        mcpu: LLVM's name of the processor to compile for; None for this one.
    """

    threads: int = 1
    mcpu: str | None = None


@dataclass(frozen=True)
class TrackerSpec:
    """Devices behind a TVM tracker.

    Attributes:
        tracker: where it listens.
        key: what to ask it for.
        target: TVM's target; None for LLVM and the processor that the device names.
        linker: cross-compiler; None for the one that fits the target.
        threads: that a program may use.
        devices: of this key that time at once; None for all that are free.
        wait_s: how long a device that went away is waited for.
    """

    tracker: TrackerAddress
    key: str
    target: TargetOptions | None = None
    linker: str | None = None
    threads: int = 1
    devices: int | None = None
    wait_s: float = 180.0


@dataclass(frozen=True)
class RecordedSpec:
    """No device: what one answered once, in a recording.

    Attributes:
        recording: name of a packaged one, or path of a file.
        noise_seed: of the deviations that a device would show; None for none.
    """

    recording: str
    noise_seed: int | None = None


def parse_device(name: str) -> LocalSpec | TrackerSpec | RecordedSpec:
    """What a device's name says; opens nothing.

    Args:
        name: e.g. one of `EXAMPLES`; plain `rpc:` takes TVM_TRACKER_HOST, TVM_TRACKER_PORT and
            TVM_TRACKER_KEY.

    Raises:
        UnknownNameError: no device of that kind.
        ConfigError: an option of the device is unknown or wrong.
    """
    kind = name.partition("?")[0].partition(":")[0]
    if kind not in _PARSERS or (kind == "local" and name[5:6] not in ("", "?")):
        raise UnknownNameError("device", name, EXAMPLES)
    return _PARSERS[kind](name)


def _parse_local(name: str) -> LocalSpec:
    options = _options(name, ("threads", "mcpu"))
    threads = _whole(name, options, "threads", psutil.cpu_count() or 1)
    return LocalSpec(1 if threads is None else threads, options.get("mcpu"))


def _parse_tracker(name: str) -> TrackerSpec:
    options = _options(name, ("target", "cc", "threads", "devices", "wait"))
    place = name.partition("?")[0].partition(":")[2].removeprefix("//")
    address, _, key = place.partition("/")
    key = key or os.environ.get("TVM_TRACKER_KEY", "")
    if not key:
        raise ConfigError(
            f"device {name!r} names no key. Give rpc://HOST:PORT/KEY, or set TVM_TRACKER_KEY; `cprune-rl device list` shows the keys of a tracker."
        )
    target = _parse_target(name, options["target"]) if "target" in options else None
    threads, devices, wait = (
        _whole(name, options, o, 4096) for o in ("threads", "devices", "wait")
    )
    if threads is None:
        cores = (target or {}).get("num-cores", 1)
        threads = cores if isinstance(cores, int) else 1
    return TrackerSpec(
        TrackerAddress.parse(address),
        key,
        target,
        options.get("cc"),
        threads,
        devices,
        TrackerSpec.wait_s if wait is None else float(wait),
    )


def _parse_recorded(name: str) -> RecordedSpec:
    options = _options(name, ("noise",))
    recording = name.partition("?")[0].partition(":")[2]
    if not recording:
        raise ConfigError(
            f"device {name!r} names no recording. Give recorded:NAME or recorded:FILE; `cprune-rl device list` shows the packaged ones."
        )
    seed = options.get("noise")
    if seed is not None and not (seed.isascii() and seed.isdigit() and len(seed) < 10):
        raise ConfigError(
            f"device {name!r}: noise is {seed!r}, it must be a seed, a whole number from 0"
        )
    return RecordedSpec(unquote(recording), None if seed is None else int(seed))


_PARSERS: Mapping[str, Callable[[str], LocalSpec | TrackerSpec | RecordedSpec]] = {
    "local": _parse_local,
    "rpc": _parse_tracker,
    "recorded": _parse_recorded,
}


def _options(name: str, known: tuple[str, ...]) -> dict[str, str]:
    query = name.partition("?")[2]
    options = {
        key: unquote(value)
        for key, _, value in (pair.partition("=") for pair in query.split("&") if pair)
    }
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            f"device {name!r}: unknown option {unknown[0]!r}. Known: {', '.join(known)}."
        )
    if empty := sorted(key for key, value in options.items() if not value):
        raise ConfigError(f"device {name!r}: option {empty[0]!r} has no value")
    return options


def _whole(name: str, options: Mapping[str, str], key: str, largest: int) -> int | None:
    text = options.get(key)
    if text is None:
        return None
    if not text.isdigit() or not 1 <= int(text) <= largest:
        what = "this machine allows" if name.startswith("local") else "allowed are"
        raise ConfigError(f"device {name!r}: {key} is {text!r}, {what} 1 to {largest}")
    return int(text)


def _parse_target(name: str, text: str) -> TargetOptions:
    """TVM's target, as JSON or as `llvm,mtriple=aarch64-linux-gnu,mattr=+neon,+fp16,num-cores=4`."""
    if text.startswith("{"):
        try:
            value: TargetOptions = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"device {name!r}: target is no JSON: {error}") from error
        if not isinstance(value.get("kind"), str):
            raise ConfigError(f'device {name!r}: target has no kind, e.g. {{"kind": "llvm"}}')
        return value
    kind, *parts = text.split(",")
    target: TargetOptions = {"kind": kind}
    features: list[str] = []
    for part in parts:
        key, is_pair, value_text = part.partition("=")
        if not is_pair and features and part[:1] in ("+", "-"):
            features.append(part)
        elif not is_pair or not key or not value_text:
            raise ConfigError(
                f"device {name!r}: {part!r} of the target is no key=value, e.g. mcpu=cortex-a72"
            )
        elif key == "mattr":
            features.append(value_text)
        else:
            target[key] = int(value_text) if value_text.isdigit() else value_text
    return {**target, "mattr": features} if features else target
