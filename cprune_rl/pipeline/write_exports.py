"""Writes a finished network in the formats that a run asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.models.export_formats import EXPORT_FORMATS, default_formats, export_network
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["WrittenExports", "write_exports"]


@dataclass(frozen=True)
class WrittenExports:
    """What was written of a network.

    Attributes:
        files: names within the folder.
        failed: why a format could not be written, by the format.
    """

    files: tuple[str, ...]
    failed: Mapping[str, str]


def write_exports(
    model: nn.Module,
    input_shape: tuple[int, ...],
    formats: Sequence[str],
    folder: Path,
    progress: ProgressLog,
) -> WrittenExports:
    """Write a network in several formats. One that it cannot be written in is said and left out.

    Args:
        model: finished, in plain weights.
        input_shape: of one image as a batch.
        formats: keys of `EXPORT_FORMATS`; where there is none, those that a run has by itself.
        folder: gets a file for each.
    """
    files = []
    failed = {}
    for name in formats or default_formats():
        file = EXPORT_FORMATS[name].file
        try:
            with progress.track(f"Writing {file}", None):
                export_network(name, model, input_shape, folder / file)
        except (ConfigError, ModelError) as error:
            failed[name] = str(error)
            progress.print(f"    {folder / file} is not written: {error}")
        else:
            files.append(file)
    return WrittenExports(tuple(files), failed)
