"""Opens a finished network out of its run folder, for those who want to use it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cprune_rl.core.user_function import is_factory
from cprune_rl.errors import ConfigError, PlanError
from cprune_rl.models.saved_network import has_graph, load_network
from cprune_rl.pruning.surgery import PlanFile, load_pruned

__all__ = ["load_finished"]

_WEIGHTS = "model.safetensors"


def load_finished(path: Path) -> nn.Module:
    """Open the network of a run folder, of one network of a front, or of a `model.safetensors`.

    No code of the user's is run and nothing is unpickled. Folders that an older version wrote have
    no graph: their networks are built anew, where this package or a library knows them by name.

    Raises:
        ConfigError: there is no finished network at the path, or only its own code can build it.
        DataError: the file of its weights is damaged.
        PlanError: `plan.json` is damaged, or does not fit the weights.
    """
    weights = path if path.is_file() else path / _WEIGHTS
    if not weights.is_file():
        raise ConfigError(_nothing_there(path))
    if has_graph(weights):
        return load_network(weights)
    folder = weights.parent
    try:
        plan = PlanFile.read(folder)
    except PlanError as error:
        raise ConfigError(f"{weights} holds weights without a graph, and {error}") from error
    if is_factory(plan.model):
        raise ConfigError(
            f"{weights} holds weights without a graph: only {plan.model} can build the network. "
            f"If you trust {folder / 'model.pt2'}, torch.export.load opens it"
        )
    return load_pruned(folder)[0]


def _nothing_there(path: Path) -> str:
    if not path.exists():
        return f"there is no run folder {path}"
    networks = sorted(file.parent.name for file in path.glob(f"*/{_WEIGHTS}"))
    if networks:
        return f"{path} holds several networks: open one of {', '.join(networks)} inside"
    if (path / "config.yaml").exists():
        return f"{path} holds no finished network: its run goes on with --resume {path}"
    return f"{path} is no run folder: it has no {_WEIGHTS}"
