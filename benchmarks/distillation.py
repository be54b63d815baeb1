"""Whether a full fine-tune gains from the dense network's answers:

accuracy after it, by the share of the loss that they have.

`python benchmarks/distillation.py [--json FILE] [--network NAME ...] [--kept 0.5 0.3] [--share 0
0.5 0.8] [--seeds 0 1]`. Uniform
plans, a run's own fine-tune; accuracy on images of the gate and of the search, never on test
images. Nothing is compiled.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from cprune_rl.accuracy.trainer import accuracy_on
from cprune_rl.core.network import Plan
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import load_settings
from cprune_rl.pipeline.trained_model import load_trained_model


def measure(
    network: str, kept: list[float], shares: list[float], seeds: list[int]
) -> list[dict[str, Any]]:
    """One network: a row for each plan and share.

    Args:
        network: a packaged one.
        kept: ratio of every group.
        shares: of the loss.
        seeds: of the fine-tunes.
    """
    config = load_config(None, {"model": network, "device": f"recorded:{network}"})
    trained_model = load_trained_model(load_settings(config), ProgressLog())
    trainer = trained_model.trainer

    def accuracy(model: nn.Module) -> float:
        on_each = (accuracy_on(trainer, model, "gate"), accuracy_on(trainer, model, "search"))
        return float(np.mean(on_each))

    dense = accuracy(trained_model.model)
    rows = []
    for ratio in kept:
        plan = Plan(
            tuple(max(g.minimum, round(g.channels * ratio)) for g in trained_model.coupled.groups)
        )
        for share in shares:
            accuracies, started = [], time.perf_counter()
            for seed in seeds:
                pruned = trained_model.pruned(plan)
                trainer.recalibrate(pruned)
                trainer.train(
                    pruned,
                    replace(full_finetune(config), seed=seed, distillation=share),
                    teacher=trained_model.model,
                )
                accuracies.append(accuracy(pruned))
            seconds = (time.perf_counter() - started) / len(seeds)
            rows.append(
                {
                    "network": network,
                    "dense": dense,
                    "kept": ratio,
                    "share": share,
                    "accuracies": accuracies,
                    "seconds": round(seconds, 1),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network", nargs="*", default=["resnet8", "vgg-small", "mobilenetv2-small"]
    )
    parser.add_argument("--kept", nargs="*", type=float, default=[0.5, 0.3])
    parser.add_argument("--share", nargs="*", type=float, default=[0.0, 0.5, 0.8])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for network in options.network:
        rows += measure(network, options.kept, options.share, options.seeds)
        if options.json:
            options.json.write_text(
                json.dumps(
                    {"command": command_line(), "system": describe_system(), "rows": rows}, indent=1
                )
                + "\n"
            )
    view = Table("network", "dense", "kept", "share", "accuracy, mean", "seconds")
    for row in rows:
        view.add_row(
            row["network"],
            f"{row['dense']:.2%}",
            f"{row['kept']:g}",
            f"{row['share']:g}",
            f"{np.mean(row['accuracies']):.2%}",
            f"{row['seconds']:.0f}",
        )
    Console().print(view)


if __name__ == "__main__":
    main()
