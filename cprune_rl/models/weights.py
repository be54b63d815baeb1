"""A network's weights: read from files, written to files, and named by a hash."""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cprune_rl.core.atomic_files import written_whole
from cprune_rl.core.untrusted import printable
from cprune_rl.errors import DataError, ModelError
from cprune_rl.models.tensor_files import weight_differences

__all__ = ["classes_of_weights", "export_torch", "load_weights", "network_hash", "save_weights"]

_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
# what DataParallel and torch.compile put before every name, in either order
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "module.")
_HOW_TO_SAVE = "with torch.save(model.state_dict(), FILE) or safetensors."
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REFUSED_CLASS = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)")
_TORCHS_ERROR = "WeightsUnpickler error:"


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a state_dict as safetensors.

    A module that is registered under two names has its weights under both, as its state_dict has.

    Args:
        model: whose weights are kept.
        path: file to write.
        metadata: texts that are kept beside the weights.
    """
    values = {
        # safetensors refuses tensors that share memory
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    with written_whole(path) as unfinished:
        save_file(values, unfinished, None if metadata is None else dict(metadata))


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state_dict in place from `.safetensors` or from what `torch.save` wrote.

    No code in the file is run. A checkpoint may have the state_dict under the key `state_dict`,
    `model_state_dict` or `model`. The prefixes of DataParallel and torch.compile are left out.
    Counters of batch norms may be missing.

    Raises:
        DataError: the file is missing or damaged, or holds something else.
        ModelError: its weights are not those of this network.
    """
    values = _state_dict(_read(path), path)
    own = model.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    values = {**counters, **values}
    if differences := weight_differences(own, values):
        raise ModelError(f"{path} does not fit the network: {'; '.join(differences)}")
    model.load_state_dict(values)


def classes_of_weights(path: Path, build: Callable[[int], nn.Module]) -> int:
    """Finds out for how many classes a file's weights are.

    Args:
        path: of the weights.
        build: makes the network for a number of classes.

    Returns:
        0 where no weight's shape depends on the number.

    Raises:
        DataError: the file is missing or damaged.
    """
    values = _state_dict(_read(path), path)
    for_two = build(2).state_dict()
    for_three = build(3).state_dict()
    for name in for_two.keys() & for_three.keys() & values.keys():
        shapes = zip(for_two[name].shape, for_three[name].shape, values[name].shape, strict=False)
        for two, three, given in shapes:
            if (two, three) == (2, 3):
                return given
    return 0


def export_torch(
    model: nn.Module, input_shape: tuple[int, ...], path: Path, *, any_batch: bool = False
) -> None:
    """Writes a file that `torch.export.load` reads, without this package.

    Args:
        model: left in evaluation mode.
        input_shape: of one image as a batch.
        path: of the file.
        any_batch: whether it takes batches of any size, where the network's code allows that.
    """
    with warnings.catch_warnings():
        # torch warns of its own deprecated calls
        warnings.simplefilter("ignore")
        # torch's stub lacks this overload
        contiguous: nn.Module = model.eval().to(  # type: ignore[call-overload]
            memory_format=torch.contiguous_format
        )
        program = _export_any_batch(contiguous, input_shape) if any_batch else None
        if program is None:
            program = torch.export.export(contiguous, (torch.zeros(input_shape),))
        with written_whole(path) as unfinished:
            torch.export.save(program, unfinished)


def _export_any_batch(
    model: nn.Module, input_shape: tuple[int, ...]
) -> torch.export.ExportedProgram | None:
    """Exports a network for batches of any size; None where its code is made for one size."""
    example = torch.zeros((2, *input_shape[1:]))  # an axis of length 1 is taken as fixed
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    # torch logs what it raises too
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=sizes)
        with torch.no_grad():
            program.module()(torch.zeros(input_shape))
    except Exception:  # torch has many for code that does not allow it
        return None
    finally:
        logging.disable(before)
    return program


def network_hash(model: nn.Module) -> str:
    """Hashes a network's weights and what it computes with them.

    The computation counts because a user's function may have changed since.
    """
    digest = hashlib.sha256(_computation(model).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # torch warns of pickles that it refuses
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch's unpickler and the readers below it raise whatever damaged bytes lead to
    except Exception as error:
        reason = printable(_reason(error))
        raise DataError(
            f"{path} cannot be read as weights: {reason}. Save them alone {_HOW_TO_SAVE}"
        ) from error


def _reason(error: Exception) -> str:
    """Say in one line what torch says in a dozen, with colours, of a file that it refuses."""
    text = _COLOURS.sub("", str(error))
    if match := _REFUSED_CLASS.search(text):
        return f"it pickles {match.group(1)}, and unpickling that may run code"
    if "TorchScript" in text:
        return "it is a TorchScript archive, a program and not weights"
    lines = text.rpartition(_TORCHS_ERROR)[2].strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Finds the state_dict in what a file holds, without the prefixes of wrappers."""
    for key in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    is_mapping = isinstance(content, Mapping) and len(content) > 0
    if not is_mapping or not all(_is_named_tensor(name, v) for name, v in content.items()):
        raise DataError(f"{path} holds no state_dict. Save the weights {_HOW_TO_SAVE}")
    # torch.compile around a part of the network
    content = {name.replace("._orig_mod.", "."): value for name, value in content.items()}
    for prefix in _WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return dict(content)


def _is_named_tensor(name: object, value: object) -> bool:
    is_tensor = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return isinstance(name, str) and is_tensor and not value.is_quantized  # type: ignore[attr-defined]


def _computation(model: nn.Module) -> str:
    """Describes the layers with their settings, and the code between them.

    Where that cannot be traced, the sources of the modules stand for it.
    """
    try:
        code = torch.fx.symbolic_trace(model).code
    except Exception:  # torch.fx raises whatever the network does with a stand-in for its input
        kinds = {type(module) for module in model.modules()}
        own = [kind for kind in kinds if not kind.__module__.startswith("torch.nn.")]
        code = "".join(_source(kind) for kind in sorted(own, key=lambda kind: kind.__qualname__))
    return f"{model!r}\n{code}"


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made at run time
        return kind.__qualname__
