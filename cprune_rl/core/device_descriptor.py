"""A device in a few measured figures, the same for every device, which policies observe.

`compiler.tuning.probe` measures them. They are kept with the costs and in recorded problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

from cprune_rl.errors import DataError

__all__ = ["UNKNOWN_DEVICE", "DeviceDescriptor"]


@dataclass(frozen=True, kw_only=True)
class DeviceDescriptor:
    """A device in figures. The default is an unknown device, whose vector is 0.

    Throughputs are those of the best of a few random schedules: what this compiler reaches quickly,
    not the data sheet.

    Attributes:
        conv3x3_gflops: convolution 3x3 with 128 channels: the peak.
        conv3x3_small_gflops: the same with 8 channels.
        conv1x1_gflops: convolution 1x1 with 128 channels.
        conv1x1_small_gflops: the same with 8 channels.
        depthwise_gflops: depthwise convolution 3x3.
        dense_gflops: matrix times vector, 512 by 512.
        bandwidth_gb_s: reading and writing of a copy larger than any cache.
        launch_ns: nanoseconds of a function that does next to nothing.
        threads: that a schedule may use.
        vector_lanes: float32 values of one vector register.
    """

    conv3x3_gflops: float = 1.0
    conv3x3_small_gflops: float = 1.0
    conv1x1_gflops: float = 1.0
    conv1x1_small_gflops: float = 1.0
    depthwise_gflops: float = 1.0
    dense_gflops: float = 1.0
    bandwidth_gb_s: float = 1.0
    launch_ns: float = 1.0
    threads: int = 1
    vector_lanes: int = 1

    # By figure, the decades that make 1.0 in the vector.
    SCALES: ClassVar[Mapping[str, float]] = {
        "conv3x3_gflops": 2.5,
        "conv3x3_small_gflops": 2.5,
        "conv1x1_gflops": 2.5,
        "depthwise_gflops": 2.5,
        "bandwidth_gb_s": 2.0,
        "launch_ns": 4.0,
        "threads": 1.2,
        "vector_lanes": 1.2,
    }
    UNITS: ClassVar[Mapping[str, str]] = {"gflops": "GFLOP/s", "gb_s": "GB/s", "ns": "ns"}

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise DataError(
                    f"device descriptor: {name} is {value!r}, it must be a number above 0. "
                    "Measure it with `cprune-rl device probe`."
                )

    @classmethod
    def vector_names(cls) -> tuple[str, ...]:
        """Names of the vector's values, in order."""
        return tuple(cls.SCALES)

    def vector(self) -> tuple[float, ...]:
        """Scaled logarithms of the figures: about 0 to 1.5, from a small board to a server."""
        return tuple(
            math.log10(getattr(self, name)) / decades for name, decades in self.SCALES.items()
        )

    @classmethod
    def unit(cls, name: str) -> str:
        """Unit of a figure; empty for a count."""
        return next((unit for ending, unit in cls.UNITS.items() if name.endswith(f"_{ending}")), "")

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, float]) -> DeviceDescriptor:
        """Reads `to_json`'s values.

        Raises:
            DataError: a figure is missing, unknown or no positive number.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            raise DataError(
                f"device descriptor: expected the figures {', '.join(sorted(names))}, "
                f"found {value!r}"
            )
        return cls(**value)  # type: ignore[arg-type]  # two are counts


UNKNOWN_DEVICE = DeviceDescriptor()
