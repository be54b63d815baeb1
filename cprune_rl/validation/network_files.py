"""Checks the files that hold a run's networks for their users, each with its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cprune_rl.core.check import Check
from cprune_rl.errors import DataError, ModelError
from cprune_rl.models.export_check import EXPORT_TOLERANCE, random_images
from cprune_rl.models.export_formats import EXPORT_FORMATS
from cprune_rl.models.saved_network import has_graph, load_network
from cprune_rl.validation.stated import StatedNetwork, StatedRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["format_checks"]

Run = Callable[[Path, "NDArray[np.float32]"], "NDArray[np.float32]"]


def format_checks(run: StatedRun) -> Iterator[Check]:
    """Run each file on one image, and compare it with the network that plan and weights give."""
    image = random_images(run.plan_file.input_shape)
    for network in run.networks[1:]:
        for path, runner in _files(run, network):
            claim = f"{path.relative_to(run.folder)} computes what the network computes"
            if not path.exists():
                yield Check(claim, "the file is missing", False)
            elif runner is None:
                yield Check(claim, "not checked: its runtime is not installed", None)
            else:
                yield _check(claim, path, runner, network.model, image)


def _files(run: StatedRun, network: StatedNetwork) -> Iterator[tuple[Path, Run | None]]:
    """List the files of a network with what runs them; None where that is not installed."""
    folder = run.folder / network.name if run.result is None else run.folder
    stated = () if run.result is None else run.result.exported
    weights = folder / "model.safetensors"
    if has_graph(weights):  # folders of before have weights alone
        yield weights, _run_saved
    for export in EXPORT_FORMATS.values():
        path = folder / export.file
        if path.exists() or export.file in stated:
            yield path, export.run if export.is_installed() else None


@torch.no_grad()
def _run_saved(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = load_network(path)(torch.from_numpy(image)).numpy()
    return np.asarray(logits, np.float32)


def _check(
    claim: str, path: Path, runner: Run, model: nn.Module, image: NDArray[np.float32]
) -> Check:
    try:
        logits = runner(path, image)
    except (DataError, ModelError) as error:
        return Check(claim, str(error), False)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(image)).numpy()
    difference = float(np.abs(logits - expected).max())
    largest = float(np.abs(expected).max())
    found = f"largest difference {difference:.1e} of logits up to {largest:.1e}"
    return Check(claim, found, difference <= EXPORT_TOLERANCE * largest)
