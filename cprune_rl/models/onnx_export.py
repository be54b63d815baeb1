"""Writes a network as ONNX, and runs what was written with ONNX Runtime.

The opset is the one that torch's exporter takes by default.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cprune_rl.errors import ConfigError, ModelError, first_line
from cprune_rl.models.export_check import check_same_answers, random_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["can_export_onnx", "check_onnx_installed", "export_onnx", "run_onnx"]

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_BATCH = 3  # images that the file is checked on, where it takes a batch
_ERRORS_ONLY = 3  # ONNX Runtime's name for it
_NO_FORM = re.compile(
    r"No (?:ONNX function|decompositions registered)[^<]*<OpOverload\(op='([^']+)'"
)


def can_export_onnx() -> bool:
    """Whether the extra `onnx` is installed."""
    return not _missing()


def check_onnx_installed(what: str) -> None:
    """Refuse what needs ONNX where the extra is not installed.

    Args:
        what: needs it, in the error.

    Raises:
        ConfigError: a package of the extra is missing.
    """
    if missing := _missing():
        raise ConfigError(
            f"{what} needs {', '.join(missing)}: pip install 'cprune-rl[onnx]', or from a "
            "checkout pip install -c constraints.txt -e '.[onnx]'"
        )


def export_onnx(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Write a network as one ONNX file, and check with ONNX Runtime that it computes the same.

    The file's input is called `image`, its output `logits`. It takes a batch of any size where the
    network does; else batches of the size that is given.

    Args:
        model: in plain weights; left as it was, in evaluation mode.
        input_shape: of one image as a batch.
        path: of the file; it is written whole or not at all.

    Raises:
        ConfigError: the extra `onnx` is not installed.
        ModelError: an operator has no form in ONNX, or ONNX Runtime computes something else.
    """
    check_onnx_installed("writing ONNX")
    # torch's stub lacks this overload
    plain: nn.Module = model.eval().to(  # type: ignore[call-overload]
        memory_format=torch.contiguous_format
    )
    temporary = path.with_name(f"{path.name}.part")
    try:
        takes_batches = _write(plain, input_shape, temporary)
        n_images = _BATCH if takes_batches else input_shape[0]
        images = random_images((n_images, *input_shape[1:]))
        check_same_answers(plain, images, run_onnx(temporary, images), "ONNX Runtime")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run_onnx(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an ONNX file on a batch of images with ONNX Runtime, on the CPU.

    Raises:
        ConfigError: the extra `onnx` is not installed.
        ModelError: ONNX Runtime cannot read the file, or not run it on these images.
    """
    check_onnx_installed(f"running {path.name}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        outputs = session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # ONNX Runtime's errors have no common class but this
        raise ModelError(f"ONNX Runtime cannot run {path}: {first_line(error)}") from error
    return np.asarray(outputs[0], np.float32)


def _missing() -> list[str]:
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def _write(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> bool:
    """Write the file, for batches of any size if that can be, and say whether it is."""
    one, *image = input_shape
    try:
        _export(model, torch.zeros((_BATCH, *image)), path, {"dynamic_shapes": ({0: "batch"},)})
    except Exception as error:  # torch.export raises whatever a network does with a batch
        if _lacks_operator(error):
            raise _refusal(error) from error
    else:
        return True
    try:
        _export(model, torch.zeros((one, *image)), path, {})
    except Exception as error:
        raise _refusal(error) from error
    return False


def _export(model: nn.Module, example: torch.Tensor, path: Path, more: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # torch warns of its own deprecated calls
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
            **more,
        )


def _lacks_operator(error: BaseException | None) -> str | None:
    """Name the operator that ONNX has no form for; None where the error is another one."""
    while error is not None:
        if match := _NO_FORM.search(str(error)):
            return match.group(1)
        error = error.__cause__
    return None


def _refusal(error: Exception) -> ModelError:
    if operator := _lacks_operator(error):
        return ModelError(f"operator {operator} has no form in ONNX")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ModelError(f"torch cannot write it as ONNX: {type(cause).__name__}: {first_line(cause)}")
