"""Trains the dense network of some runs: from the start, or on from a published checkpoint.

`python benchmarks/real_images/train_dense.py --model MODEL --data DATA --epochs N --out FOLDER
[--weights FILE] [--seed 0]`.

It writes `weights.safetensors`, and `dense.json` with what was done. Only the images for training
are learnt from; the accuracies stated are on the search images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from torch import nn

from cprune_rl.accuracy.data import ImageData, load_data
from cprune_rl.accuracy.training import TrainSettings, evaluate, train
from cprune_rl.core.json_text import dump_json
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import load_weights, save_weights
from cprune_rl.pipeline.progress import ProgressLog

_FROM_START = 0.1  # peak of the learning rate
_FROM_CHECKPOINT = 0.05


def train_dense(
    model: nn.Module, data: ImageData, settings: TrainSettings, folder: Path, progress: ProgressLog
) -> None:
    """Train a network, and write its weights and what was done.

    Args:
        model: with its starting weights; changed in place.
        data: images.
        settings: of the training.
        folder: is made where it is not there.
        progress: shows the training.
    """
    before = evaluate(model, data.search)
    started = time.perf_counter()
    with progress.track("Training the dense network", settings.n_steps) as advance:
        train(model, data, settings, on_step=lambda step, _: advance(step))
    done = {
        "n_train": len(data.train),
        "n_steps": settings.n_steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "accuracy_before": before,
        "accuracy_after": evaluate(model, data.search),
        "train_s": round(time.perf_counter() - started, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dense.json").write_text(dump_json(done))
    # The last file: a training that was stopped is begun anew.
    save_weights(model, folder / "weights.part")
    (folder / "weights.part").replace(folder / "weights.safetensors")
    progress.print(f"    accuracy {before:.2%} before, {json.dumps(done['accuracy_after'])} after")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load_data(options.data)
    n_channels = data.input_shape[1]
    model = build_model(options.model, data.n_classes, options.seed, n_channels)
    if options.weights is not None:
        load_weights(model, options.weights)
    batch_size = TrainSettings.batch_size
    settings = TrainSettings(
        n_steps=max(1, round(options.epochs * len(data.train) / batch_size)),
        learning_rate=_FROM_START if options.weights is None else _FROM_CHECKPOINT,
        seed=options.seed,
    )
    train_dense(model, data, settings, options.out, ProgressLog())


if __name__ == "__main__":
    main()
