"""Opens a device by its name.

tvm is imported only then: it takes seconds to load, and a wrong name or a recording needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cprune_rl.compiler.devices.spec import RecordedSpec, TrackerSpec, parse_device
from cprune_rl.errors import ConfigError

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.base import RpcDevice, TimingSettings

__all__ = ["open_device"]


def open_device(name: str, timing: TimingSettings | None = None) -> RpcDevice:
    """Open a device by its name.

    Args:
        name: as `parse_device` reads it.
        timing: how long programs are timed.

    Raises:
        UnknownNameError: no device or processor of that name.
        ConfigError: an option of the device is unknown or wrong, or it is a recording.
        ToolchainError: no compiler links programs for it.
        DeviceError: no tracker answers, or no device of that key.
    """
    spec = parse_device(name)
    if isinstance(spec, RecordedSpec):
        raise ConfigError(
            f"{name!r} is a recording: it answers for the tasks it holds, and nothing can be built "
            "for it or timed on it. Give local, or rpc://host:port/key."
        )
    if isinstance(spec, TrackerSpec):
        from cprune_rl.compiler.devices.tracker import TrackerDevice

        return TrackerDevice(spec, timing)
    from cprune_rl.compiler.devices.local import LocalDevice

    return LocalDevice(spec.threads, spec.mcpu, timing)
