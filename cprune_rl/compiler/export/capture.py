"""The way in: from a network in torch to a Relax function whose parameters are inputs."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Mapping

import torch
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from cprune_rl.compiler.export.batch_norms import fold_batch_norms, module_name
from cprune_rl.compiler.export.branches import merge_branches
from cprune_rl.compiler.export.normalize import simplify_operators
from cprune_rl.compiler.export.operators import IMPORTERS, decompositions, replace_operators
from cprune_rl.compiler.export.program_editor import ProgramEditor
from cprune_rl.compiler.export.rebuild import FunctionTemplate
from cprune_rl.core.workload import Extent
from cprune_rl.errors import CPruneError, ModelError, first_line
from cprune_rl.models.copies import copy_network

__all__ = ["capture_function", "capture_program"]

_N_LISTED = 5  # operators that the importer lacks
_RESERVED = frozenset({"code", "graph"})  # properties of torch's GraphModule


def capture_function(
    model: nn.Module, example: torch.Tensor, axes: Mapping[str, tuple[Extent, ...]]
) -> FunctionTemplate:
    """Export a network, fold its batch norms, and import it into Relax.

    Args:
        model: the network; it is left as it was.
        example: an image.
        axes: extents of the parameters' axes; a parameter that is missing keeps its shape.

    Raises:
        ModelError: torch.export or TVM's importer does not take the network.
    """
    try:
        program, editor = capture_program(model, example, axes)
        _check_operators(program)
        imported = from_exported_program(
            program,
            keep_params_as_input=True,
            custom_convert_map=IMPORTERS,
            run_ep_decomposition=False,
        )
    except CPruneError:
        raise
    except Exception as error:  # both raise whatever the user's network provokes
        raise ModelError(
            f"the network cannot be exported: {type(error).__name__}: {first_line(error)}"
        ) from error
    function = relax.frontend.detach_params(imported)[0]["main"]
    return FunctionTemplate(
        function=simplify_operators(function),
        sources=tuple(editor.sources[p.name] for p in function.params[1:]),
    )


def capture_program(
    model: nn.Module, example: torch.Tensor, axes: Mapping[str, tuple[Extent, ...]]
) -> tuple[torch.export.ExportedProgram, ProgramEditor]:
    """Export a network in evaluation mode with its batch norms folded and its branches merged.

    Returns:
        The program, which computes what the network does, and the sources of its parameters.

    Raises:
        ModelError: a batch norm uses the statistics of each batch, or a part has a reserved name.
    """
    _check_names(model)
    # A copy, because the export leaves its stand-ins where a forward keeps a map on its module.
    copy = copy_network(model).eval()
    with warnings.catch_warnings():
        # torch warns of its own deprecated calls, and of maps that are kept.
        warnings.simplefilter("ignore")
        program = _export(copy, example.contiguous()).run_decompositions(decompositions())
    editor = ProgramEditor(program, axes)
    editor.drop_asserts()
    editor.find_constants()
    fold_batch_norms(editor)
    replace_operators(editor)
    merge_branches(editor)
    editor.finish()
    return program, editor


def _export(model: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Let torch follow the forward.

    Raises:
        ModelError: it decides by the values of the image, or does something else that torch.export
            does not follow.
    """
    silent = logging.root.manager.disable
    # torch logs and prints the whole program where it cannot follow it.
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(model, (example,))
    except Exception as error:  # whatever the user's forward provokes
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if f.name == "forward" and "site-packages" not in f.filename]
        where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        raise ModelError(
            f"torch.export cannot follow the network's forward{where}: {type(error).__name__}: "
            f"{first_line(error).rstrip('.')}. What decides by the values of an image, or takes "
            "numbers out of tensors (item(), float()), must be written with tensors, as torch.where"
        ) from error
    finally:
        logging.disable(silent)


def _check_names(model: nn.Module) -> None:
    own = {name.partition(".")[0] for name, _ in model.named_modules()}
    own |= {name for name, _ in model.named_parameters(recurse=False)}
    own |= {name for name, _ in model.named_buffers(recurse=False)}
    for name in sorted(own & _RESERVED):
        raise ModelError(
            f"a part of the network is called {name!r}, which torch.export keeps for itself: "
            "give it another name, in the weights as well"
        )


def _check_operators(program: torch.export.ExportedProgram) -> None:
    """Refuse operators that TVM's importer lacks.

    Raises:
        ModelError: with the operators, and the modules that call them.
    """
    known = {*ExportedProgramImporter().convert_map, *IMPORTERS}
    lacking: dict[str, str] = {}
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name not in known:
            lacking.setdefault(name.removesuffix(".default"), module_name(node))
    if lacking:
        listed = ", ".join(
            f"{name} (in {module})" if module else name
            for name, module in list(lacking.items())[:_N_LISTED]
        )
        raise ModelError(
            f"TVM has no counterpart of these operators: {listed}. "
            "Write that part of the network with others."
        )
