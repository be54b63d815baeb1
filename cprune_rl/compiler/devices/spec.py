"""Reads the name of a device without opening it (`open.py` does that).

No tvm is loaded here, so that a wrong name is answered at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import psutil

from cprune_rl.compiler.devices.tracker_client import TrackerAddress
from cprune_rl.core.spec_string import SpecString
from cprune_rl.errors import UnknownNameError

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
_MOST_OF_A_TRACKER = 4096  # threads, devices or seconds: more is a slip of the pen


@dataclass(frozen=True)
class LocalSpec:
    """This machine.

    Attributes:
        threads: that a program may use.
        mcpu: LLVM's name of the processor to compile for; None for this one.
    """

    threads: int = 1
    mcpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """Devices of one key behind a TVM tracker.

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
    """A recording: no device, but what one answered once.

    Attributes:
        recording: name of a packaged one, or path of a file.
        noise_seed: of the deviations that a device would show; None for none.
    """

    recording: str
    noise_seed: int | None = None


def parse_device(name: str) -> LocalSpec | TrackerSpec | RecordedSpec:
    """Read a device's name.

    Args:
        name: such as `EXAMPLES`; `rpc:` alone takes TVM_TRACKER_HOST, TVM_TRACKER_PORT and
            TVM_TRACKER_KEY.

    Raises:
        UnknownNameError: no device of that kind.
        ConfigError: an option of the device is unknown or wrong.
    """
    spec = SpecString.from_name("device", name)
    if spec.kind not in _PARSERS or (spec.kind == "local" and spec.argument):
        raise UnknownNameError("device", name, EXAMPLES)
    return _PARSERS[spec.kind](spec)


def _parse_local(spec: SpecString) -> LocalSpec:
    spec.check_options(("threads", "mcpu"))
    threads = _whole_number(spec, "threads", psutil.cpu_count() or 1)
    return LocalSpec(threads or 1, spec.options.get("mcpu"))


def _parse_tracker(spec: SpecString) -> TrackerSpec:
    spec.check_options(("target", "cc", "threads", "devices", "wait"))
    address, _, key = spec.argument.removeprefix("//").partition("/")
    key = key or os.environ.get("TVM_TRACKER_KEY", "")
    if not key:
        raise spec.error(
            "it names no key. Give rpc://HOST:PORT/KEY, or set TVM_TRACKER_KEY; "
            "`cprune-rl device list` shows the keys of a tracker."
        )
    target = _parse_target(spec, spec.options["target"]) if "target" in spec.options else None
    wait_s = _whole_number(spec, "wait", _MOST_OF_A_TRACKER)
    return TrackerSpec(
        tracker=TrackerAddress.parse(address),
        key=key,
        target=target,
        linker=spec.options.get("cc"),
        threads=_whole_number(spec, "threads", _MOST_OF_A_TRACKER) or _n_cores(target),
        devices=_whole_number(spec, "devices", _MOST_OF_A_TRACKER),
        wait_s=TrackerSpec.wait_s if wait_s is None else float(wait_s),
    )


def _n_cores(target: TargetOptions | None) -> int:
    cores = (target or {}).get("num-cores")
    return cores if isinstance(cores, int) else 1


def _parse_recorded(spec: SpecString) -> RecordedSpec:
    spec.check_options(("noise",))
    if not spec.argument:
        raise spec.error(
            "it names no recording. Give recorded:NAME or recorded:FILE; "
            "`cprune-rl device list` shows the packaged ones."
        )
    seed = spec.options.get("noise")
    if seed is not None and not (seed.isascii() and seed.isdigit() and len(seed) < 10):
        raise spec.error(f"noise is {seed!r}, it must be a seed, a whole number from 0")
    return RecordedSpec(unquote(spec.argument), None if seed is None else int(seed))


_PARSERS: Mapping[str, Callable[[SpecString], LocalSpec | TrackerSpec | RecordedSpec]] = {
    "local": _parse_local,
    "rpc": _parse_tracker,
    "recorded": _parse_recorded,
}


def _whole_number(spec: SpecString, option: str, largest: int) -> int | None:
    """Read an option that is a number from 1; None where it was not given."""
    text = spec.options.get(option)
    if text is None:
        return None
    if not text.isdigit() or not 1 <= int(text) <= largest:
        limits = "this machine allows" if spec.kind == "local" else "allowed are"
        raise spec.error(f"{option} is {text!r}, {limits} 1 to {largest}")
    return int(text)


def _parse_target(spec: SpecString, text: str) -> TargetOptions:
    """Read TVM's target: JSON, or `llvm,mtriple=aarch64-linux-gnu,mattr=+neon,+fp16`."""
    if text.startswith("{"):
        return _parse_json_target(spec, text)
    kind, *parts = text.split(",")
    target: TargetOptions = {"kind": kind}
    features: list[str] = []
    for part in parts:
        key, is_pair, value = part.partition("=")
        if not is_pair and features and part[:1] in ("+", "-"):
            features.append(part)
        elif not is_pair or not key or not value:
            raise spec.error(f"{part!r} of the target is no key=value, e.g. mcpu=cortex-a72")
        elif key == "mattr":
            features.append(value)
        else:
            target[key] = int(value) if value.isdigit() else value
    return {**target, "mattr": features} if features else target


def _parse_json_target(spec: SpecString, text: str) -> TargetOptions:
    try:
        target: TargetOptions = json.loads(text)
    except ValueError as error:
        raise spec.error(f"target is no JSON: {error}") from error
    if not isinstance(target.get("kind"), str):
        raise spec.error('target has no kind, e.g. {"kind": "llvm"}')
    return target
