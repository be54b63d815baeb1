"""The formats that a finished network can be written in, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cprune_rl.errors import ConfigError, UnknownNameError
from cprune_rl.models.onnx_export import (
    can_export_onnx,
    check_onnx_installed,
    export_onnx,
    run_onnx,
)
from cprune_rl.models.pte_export import (
    can_export_pte,
    check_executorch_installed,
    export_pte,
    run_pte,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["EXPORT_FORMATS", "ExportFormat", "check_formats", "default_formats", "export_network"]


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One format.

    Attributes:
        file: name of the network's file in a run folder.
        is_installed: whether the packages that it needs are there.
        check_installed: raises a `ConfigError` that says what to install; takes what needs it.
        write: takes a network, the shape of one image as a batch, and a path; checks what it wrote.
        run: takes a file and a batch of images, and gives logits.
    """

    file: str
    is_installed: Callable[[], bool]
    check_installed: Callable[[str], None]
    write: Callable[[nn.Module, tuple[int, ...], Path], None]
    run: Callable[[Path, NDArray[np.float32]], NDArray[np.float32]]


EXPORT_FORMATS: Mapping[str, ExportFormat] = {
    "onnx": ExportFormat(
        file="model.onnx",
        is_installed=can_export_onnx,
        check_installed=check_onnx_installed,
        write=export_onnx,
        run=run_onnx,
    ),
    "pte": ExportFormat(
        file="model.pte",
        is_installed=can_export_pte,
        check_installed=check_executorch_installed,
        write=export_pte,
        run=run_pte,
    ),
}
"""By the name that `--export` takes."""

_NOT_OFFERED = {
    "tflite": (
        "litert-torch 0.10 takes this torch, 2.13, but wants typing-extensions below 4.13, and TVM "
        "4.13 or newer, so they cannot be installed together; up to 0.9.3 it wants a torch below "
        "2.13. Convert model.onnx or model.pt2 in an environment of its own"
    )
}
"""Why a format that is asked for is not there, by its name."""


def default_formats() -> tuple[str, ...]:
    """Give the formats of a run that asks for none: ONNX, where its extra is installed."""
    return ("onnx",) if EXPORT_FORMATS["onnx"].is_installed() else ()


def check_formats(names: Iterable[str]) -> None:
    """Refuse formats that there are not, or that lack a package.

    Raises:
        UnknownNameError: no format has that name.
        ConfigError: a package is not installed, or cannot be beside this torch and TVM.
    """
    for name in names:
        if name in _NOT_OFFERED:
            raise ConfigError(f"--export {name} is not offered: {_NOT_OFFERED[name]}")
        if name not in EXPORT_FORMATS:
            raise UnknownNameError("export format", name, EXPORT_FORMATS)
        EXPORT_FORMATS[name].check_installed(f"--export {name}")


def export_network(
    format_name: str, model: nn.Module, input_shape: tuple[int, ...], path: Path
) -> None:
    """Write a network in a format, and check that its runtime computes what torch does.

    Args:
        format_name: a key of `EXPORT_FORMATS`.
        model: in plain weights.
        input_shape: of one image as a batch.
        path: of the file.

    Raises:
        UnknownNameError: no format has that name.
        ConfigError: a package is not installed.
        ModelError: the network cannot be written so, or computes something else there.
    """
    check_formats([format_name])
    EXPORT_FORMATS[format_name].write(model, input_shape, path)
