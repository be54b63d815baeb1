"""Writes a network for ExecuTorch, the runtime of phones and boards, and runs what was written."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cprune_rl.errors import ConfigError, ModelError, first_line
from cprune_rl.models.export_check import check_same_answers, random_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["can_export_pte", "check_executorch_installed", "export_pte", "run_pte"]


def can_export_pte() -> bool:
    """Whether the extra `executorch` is installed."""
    return importlib.util.find_spec("executorch") is not None


def check_executorch_installed(what: str) -> None:
    """Refuse what needs ExecuTorch where it is not installed.

    Args:
        what: needs it, in the error.

    Raises:
        ConfigError: it is not installed.
    """
    if not can_export_pte():
        raise ConfigError(
            f"{what} needs executorch: pip install 'cprune-rl[executorch]', or from a checkout "
            "pip install -c constraints.txt -e '.[executorch]'"
        )


def export_pte(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Write a network for ExecuTorch with XNNPACK's kernels, and check that it computes the same.

    The file takes batches of the size that is given.

    Args:
        model: in plain weights; left as it was, in evaluation mode.
        input_shape: of one image as a batch.
        path: of the file; it is written whole or not at all.

    Raises:
        ConfigError: the extra `executorch` is not installed.
        ModelError: the network cannot be written so, or ExecuTorch computes something else.
    """
    check_executorch_installed("writing .pte")
    # torch's stub lacks this overload
    plain: nn.Module = model.eval().to(  # type: ignore[call-overload]
        memory_format=torch.contiguous_format
    )
    temporary = path.with_name(f"{path.name}.part")
    try:
        with _quiet():
            try:
                temporary.write_bytes(_program(plain, input_shape))
            except Exception as error:  # its passes raise anything for what they do not know
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise ModelError(f"ExecuTorch cannot take it: {reason}") from error
        images = random_images(input_shape)
        check_same_answers(plain, images, run_pte(temporary, images), "ExecuTorch")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run_pte(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a file of ExecuTorch on a batch of images.

    Raises:
        ConfigError: the extra `executorch` is not installed.
        ModelError: ExecuTorch cannot read the file, or not run it on these images.
    """
    check_executorch_installed(f"running {path.name}")
    with _quiet():
        from executorch.runtime import Runtime

        try:
            # read here: its own loader keeps the file open
            program = Runtime.get().load_program(path.read_bytes())
            outputs = program.load_method("forward").execute([torch.from_numpy(images)])
        except Exception as error:  # its errors are RuntimeErrors and others
            raise ModelError(f"ExecuTorch cannot run {path}: {first_line(error)}") from error
    return np.asarray(outputs[0].numpy(), np.float32)


def _program(model: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(model, (torch.zeros(input_shape),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and logs of its imports and passes out of the output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
