"""The whole way from Python: `cprune_rl.prune(...)` does what `cprune-rl prune` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from cprune_rl.core.result import Result

__all__ = ["load", "prune"]


def prune(**options: Any) -> Result:
    """Prune a network for a device with a policy that was trained before.

    Args:
        options: those of `cprune-rl prune`, with underscores: `model="mynet.py:build"`,
            `weights="w.pt"`, `data="npz:mine.npz"`, `floor=-0.01`, `device="local"`, `out=...`.

    Returns:
        The result of the run; of the last floor where there are several. Its folder has the
        network's files.

    Raises:
        CPruneError: an option, the network, the images, the machine's tools or the device is at
            fault. What was measured and trained until then is kept.
    """
    from cprune_rl.agents.policies import DEFAULT
    from cprune_rl.pipeline.config import load_config
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.run import run
    from cprune_rl.pipeline.run_folder import RunFolder
    from cprune_rl.pipeline.setup import check_names

    config = load_config(None, options, {"policy": DEFAULT})
    check_names(config)
    return run(RunFolder.create(config), ProgressLog())[-1]


def load(path: str | Path) -> nn.Module:
    """Open the pruned network of a run, ready to use.

    It needs neither the code that built the network nor a compiler. It runs no code of the folder:
    nothing is unpickled. The network is in evaluation mode and takes batches of normalised images.

    Args:
        path: a run folder, the folder of one network of a front, or a `model.safetensors`.

    Raises:
        CPruneError: there is no finished network, or a file of it is damaged.
    """
    from pathlib import Path

    from cprune_rl.pruning.finished import load_finished

    return load_finished(Path(path).expanduser())
