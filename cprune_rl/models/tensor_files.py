"""Reads files of tensors that may be damaged or a stranger's; no code in them is run."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cprune_rl.core.untrusted import damage, printable
from cprune_rl.errors import DataError

__all__ = ["check_exported", "read_tensors", "weight_differences"]

_N_SHOWN = 5  # names of weights that do not fit
# What `torch.export.save` writes into its archive, below the archive's own folder.
_EXPORTED = re.compile(
    r"archive_(?:format|version)|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)"
)
_EXPORTED_TENSOR = re.compile(r"(?:weight|tensor)_\d+")
_WORD = re.compile(r"[^\W\d]\w*|[^\w\s()+\-*/,.<>=]")  # names, and signs of no arithmetic
_SHAPE_WORD = re.compile(
    r"[su]\d+|Max|Min|Mod|FloorDiv|Eq|Ne|Le|Lt|Ge|Gt|Integer|Symbol"
    r"|'|positive|nonnegative|integer|True"  # Symbol('s77', positive=True, integer=True)
)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a `.safetensors` file.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    # safetensors raises a type of its own, the file system its own, and torch for unknown types
    except Exception as error:
        raise DataError(f"{path} cannot be read as weights: {damage(error)}") from error
    return tensors


def weight_differences(
    own: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> list[str]:
    """Say which weights of a file do not fit a network; empty where all do."""
    shared = own.keys() & values.keys()
    reshaped = [name for name in shared if own[name].shape != values[name].shape]
    # torch would drop the imaginary parts, with a warning
    retyped = [name for name in shared if values[name].is_complex() > own[name].is_complex()]
    names_by_kind = {
        "it lacks": own.keys() - values.keys(),
        "the network has no": values.keys() - own.keys(),
        "other shapes:": {
            f"{n} ({tuple(values[n].shape)}, here {tuple(own[n].shape)})" for n in reshaped
        },
        "other types:": {f"{n} ({values[n].dtype}, here {own[n].dtype})" for n in retyped},
    }
    return [f"{kind} {_shortened(names)}" for kind, names in names_by_kind.items() if names]


def check_exported(path: Path) -> None:
    """Refuse a file of `torch.export` that may run code where torch loads it.

    Loading one unpickles what its settings name, and evaluates the text of shapes. Networks that
    this package exports have weights as plain bytes, and shapes of sums and products.

    Raises:
        DataError: it is missing, damaged, or holds more than weights and a graph.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(archive, entry)
    # zip files, pickles, JSON and torch each have errors of their own for damaged content
    except Exception as error:
        raise DataError(f"{path} is no network that was exported here: {damage(error)}") from error


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    name = entry.filename.partition("/")[2]
    if _EXPORTED.fullmatch(name) is None:
        raise ValueError(f"{entry.filename[:60]!r} is not among its files")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    if name.endswith(".json"):
        _check_settings(json.loads(archive.read(entry)))
    elif name.endswith(".pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # torch itself loads it without this restriction where it fails
            torch.load(io.BytesIO(archive.read(entry)), map_location="meta", weights_only=True)


def _check_settings(value: Any) -> None:
    """Refuse, at any depth, what is unpickled and what is evaluated but plain arithmetic."""
    values = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict):
        if value.get("use_pickle", False) is not False:
            raise ValueError("it has weights that would be unpickled")
        if _EXPORTED_TENSOR.fullmatch(str(value.get("path_name", "weight_0"))) is None:
            raise ValueError(f"{str(value['path_name'])[:60]!r} is no file of weights")
        words = set(_WORD.findall(str(value.get("expr_str", "0"))))
        if unknown := {word for word in words if not _SHAPE_WORD.fullmatch(word)}:
            raise ValueError(f"a shape has the word {min(unknown)[:60]!r}")
    if isinstance(value, (dict, list)):
        for inner in values:
            _check_settings(inner)


def _shortened(names: set[str]) -> str:
    more = " and more" if len(names) > _N_SHOWN else ""
    return ", ".join(printable(name[:200]) for name in sorted(names)[:_N_SHOWN]) + more
