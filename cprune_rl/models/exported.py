"""Opens networks that `torch.export` wrote as modules: for a run folder without their code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cprune_rl.errors import DataError, first_line
from cprune_rl.models.tensor_files import check_exported

__all__ = ["ExportedModule", "load_exported", "read_exported"]


class ExportedModule(nn.Module):
    """A network as it was exported, in evaluation mode for good.

    Its parameters have the names that they had in the network.

    Args:
        program: of one input, a batch of images.
    """

    _graph: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        graph = program.module()
        for name, child in graph.named_children():
            self.add_module(name, child)
        for name, parameter in graph.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in graph.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        object.__setattr__(self, "_graph", graph)  # its parts are registered above
        (images,) = program.graph_signature.user_inputs
        (node,) = [node for node in program.graph.nodes if node.name == images]
        self._takes_one = node.meta["val"].shape[0] == 1
        self.training = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits of a batch."""
        images = images.contiguous()
        if not self._takes_one or len(images) == 1:
            return self._graph(images)
        return torch.cat([self._graph(image) for image in torch.split(images, 1)])

    def take_weights(self, values: Mapping[str, torch.Tensor]) -> None:
        """Compute with other weights, such as those after a fine-tune.

        Args:
            values: by name; it may have more of them.

        Raises:
            DataError: one is missing, or of another shape.
        """
        own = self.state_dict()
        differ = [
            n for n, value in own.items() if n not in values or values[n].shape != value.shape
        ]
        if differ:
            raise DataError(f"the weights do not fit the exported network: {differ[0]} differs")
        self.load_state_dict({name: values[name] for name in own})

    def train(self, mode: bool = True) -> ExportedModule:
        """Stay in evaluation mode.

        Raises:
            RuntimeError: it is to be trained.
        """
        if mode:
            raise RuntimeError("a network that was exported cannot be trained: load its own module")
        return self

    def to(self, *args: Any, **kwargs: Any) -> ExportedModule:
        """Move it; the memory layout stays that of the export, which its views rely on."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self


def load_exported(path: Path) -> ExportedModule:
    """Open a file that `export_torch` wrote, as a module that takes any batch.

    Raises:
        DataError: it is missing or damaged, or has more than weights and a graph.
    """
    return ExportedModule(read_exported(path))


def read_exported(path: Path) -> torch.export.ExportedProgram:
    """Read a file that `export_torch` wrote; no code in it is run.

    Raises:
        DataError: it is missing or damaged, or has more than weights and a graph.
    """
    check_exported(path)
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs the traceback of a damaged file, too
    try:
        return torch.export.load(path)
    except Exception as error:  # torch has many for a damaged file
        raise DataError(f"{path} cannot be read as a network: {first_line(error)}") from error
    finally:
        log.setLevel(level)
