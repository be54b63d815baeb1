"""What schemes cost in accuracy:

plans with blocks, kernels and patterns, and narrower ones, fine-tuned in full.

`python benchmarks/scheme_losses.py [--network NAME ...] [--storage URL] [--json FILE]`. For each
network every kind of scheme over all
layers that take it, at several densities; then layers drawn at random, each with a scheme of its
own; and uniform plans
of channels beside them. Densities of blocks and channels are comparable by what they leave to
compute. Nothing is compiled. Answers are kept, so that a run which was
stopped goes on. To the result is fitted what a search predicts of losses
(`cprune_rl.core.loss_model.scheme_penalty`): a level for each network; for all
of them the powers of block size and density, and how much worse than blocks whole kernels and
patterns are. `--fit FILE` fits to what is kept in a file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cprune_rl.accuracy.oracle import PlanOracle
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, Scheme
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import PlanError
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import load_settings
from cprune_rl.pipeline.trained_model import load_trained_model

NETWORKS = ("resnet8", "vgg-small", "mobilenetv2-small")
_SHAPES = (
    ("block", 4),
    ("block", 16),
    ("kernel", 8),
    ("kernel", 16),
    ("block", 1 << 20),
    ("pattern", 4),
)
_DENSITIES = (0.35, 0.175, 0.09)
_RATIOS = (0.75, 0.5, 0.35)  # of channels kept
_NOISE = 0.004  # of an accuracy: less is not told apart
_SHORT = 50  # steps of the search's own look


def plans_of(network: Network, n_random: int, seed: int) -> list[Plan]:
    """The plans that are fine-tuned.

    Args:
        network: as lowered.
        n_random: plans of which each layer has a scheme of its own, or none.
        seed: of those.
    """
    found = [network.uniform(ratio) for ratio in _RATIOS]
    for kind, block in _SHAPES:
        layers = [layer for layer in network.scheme_layers if is_able(network, layer, kind)]
        densities = [d for d in _DENSITIES if kind != "pattern" or d < MAX_PATTERN_DENSITY]
        found += [
            Plan(
                network.dense.widths,
                tuple((layer, str(Scheme(kind, block, d))) for layer in layers),
            )
            for d in densities
            if layers
        ]
    rng = np.random.default_rng(seed)
    for _ in range(n_random):
        schemes = []
        level = rng.uniform(0.1, 0.4)
        for layer in network.scheme_layers:
            kind, block = _SHAPES[int(rng.integers(len(_SHAPES) - 2))]
            if rng.random() < 0.8 and is_able(network, layer, kind):
                schemes.append(
                    (
                        layer,
                        str(
                            Scheme(
                                kind,
                                block,
                                round(
                                    float(np.clip(level * np.exp(rng.normal(0, 0.6)), 0.03, 0.9)), 3
                                ),
                            )
                        ),
                    )
                )
        found.append(Plan(network.dense.widths, tuple(schemes)))
    return found


def is_able(network: Network, layer: str, kind: str) -> bool:
    """Whether a layer can be pruned by a kind of scheme."""
    try:
        network.schemes(Plan(network.dense.widths, ((layer, str(Scheme(kind, 4, 0.25))),)))
    except PlanError:
        return False
    return True


def measure(name: str, n_random: int, steps: int | None, storage: str) -> dict[str, Any]:
    """Losses of one network's plans.

    Args:
        name: a packaged network.
        n_random: see `plans_of`.
        steps: of the full fine-tune; a run's own where not given.
        storage: keeps every answer.
    """
    progress = ProgressLog()
    config = load_config(None, {"model": name, "storage": storage, "finetune_steps": steps})
    trained_model = load_trained_model(load_settings(config), progress)
    network = _lowered(name, trained_model.model, trained_model.example, trained_model.coupled)
    settings = full_finetune(config)
    full, short = (
        trained_model.finetuned(settings, is_gradual=True),
        trained_model.finetuned(TrainSettings(n_steps=_SHORT, learning_rate=0.02, warmup=0.1)),
    )
    dense_accuracy = trained_model.dense_accuracy
    store = open_store(storage)
    oracle, plans = (
        PlanOracle(
            evaluation=full,
            trainer=trained_model.trainer,
            store=store,
            dense_accuracy=dense_accuracy,
        ),
        plans_of(network, n_random, 0),
    )
    started = time.perf_counter()
    with progress.track(f"{name}: full fine-tunes", len(plans)) as advance:
        true = oracle.evaluate_all(plans, full, advance)
    with progress.track(f"{name}: short ones", len(plans)) as advance:
        told = oracle.evaluate_all(plans, short, advance)
    store.close()
    dense = network.dense
    return {
        "network": name,
        "steps": settings.n_steps,
        "dense_accuracy": round(dense_accuracy, 5),
        "images": trained_model.trainer.n_images["search"],
        "seconds": round(time.perf_counter() - started, 1),
        "layers": {
            layer: [channels, network.workload(at, dense).macs]
            for (layer, at), channels in zip(
                network.scheme_layers.items(), network.layer_channels, strict=True
            )
        },
        "groups": [g.channels for g in network.groups],
        "plans": [
            {
                "widths": list(plan.widths),
                "schemes": dict(plan.schemes),
                "macs_ratio": round(network.macs(plan) / network.macs(dense), 4),
                "loss": round(dense_accuracy - accuracy, 5),
                "short": round(dense_accuracy - judged, 5),
            }
            for plan, accuracy, judged in zip(plans, true, told, strict=True)
        ],
    }


def fit(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The most fitting powers and factors, in the logarithm of the loss and 0.4 points:

    below that it is noise.

    Args:
        rows: as `measure` gives them.
    """
    plans = [
        (at, row["layers"], plan)
        for at, row in enumerate(rows)
        for plan in row["plans"]
        if plan["schemes"]
    ]
    lost = np.log(np.maximum([plan["loss"] for *_, plan in plans], 0.0) + _NOISE)

    def told(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel, pattern, block_power, density_power, *levels = np.exp(parameters)
        coarseness = {"block": 1.0, "kernel": kernel, "pattern": pattern}
        return np.array(
            [
                levels[at]
                * sum(
                    _hardness(text, layers[layer][0], coarseness, block_power, density_power)
                    for layer, text in plan["schemes"].items()
                )
                for at, layers, plan in plans
            ]
        )

    def error(parameters: NDArray[np.float64]) -> float:
        return float(np.square(np.log(told(parameters) + _NOISE) - lost).sum())

    starts = [np.log([3.0, 3.0, 0.5, power, *[1e-4] * len(rows)]) for power in (1.5, 2.0, 2.5)]
    found = min(
        (
            minimize(
                error, start, method="Nelder-Mead", options={"maxiter": 10_000, "maxfev": 10_000}
            )
            for start in starts
        ),
        key=lambda o: float(o.fun),
    )
    kernel, pattern, block_power, density_power, *levels = (
        float(f"{v:.3g}") for v in np.exp(found.x)
    )
    return {
        "kernel_over_block": kernel,
        "pattern_over_block": pattern,
        "block_power": block_power,
        "density_power": density_power,
        "levels": dict(zip((row["network"] for row in rows), levels, strict=True)),
        "log_deviation": round(float(np.sqrt(found.fun / len(plans))), 3),
        "n_plans": len(plans),
    }


def _hardness(
    text: str,
    channels_out: int,
    coarseness: Mapping[str, float],
    block_power: float,
    density_power: float,
) -> float:
    scheme = Scheme.parse(text)
    return float(
        coarseness[scheme.kind]
        * min(scheme.block, channels_out) ** block_power
        * (scheme.density**-density_power - 1)
    )


def _lowered(name: str, model: Any, example: Any, coupled: Any) -> Network:
    from cprune_rl.compiler.devices.local import LocalDevice
    from cprune_rl.compiler.devices.target import host_cpu
    from cprune_rl.compiler.export.exported_network import ExportedNetwork
    from cprune_rl.compiler.layouts.variants import find_layout_variants

    with LocalDevice(1, host_cpu()) as device:
        exported = ExportedNetwork.export(
            model, example, coupled.axes, device.target, coupled.written
        )
        return find_layout_variants(name, exported, coupled.groups, coupled.unprunable).network


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", default=NETWORKS)
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument("--steps", type=int, help="of the full fine-tune")
    parser.add_argument(
        "--storage",
        default="sqlite:///scheme-losses.db",
        help="keeps every answer, so that a run which was stopped goes on",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--fit", type=Path, help="fit to the plans that such a file has, and train nothing"
    )
    options = parser.parse_args()
    if options.fit:
        print(json.dumps(fit(json.loads(options.fit.read_text())["rows"]), indent=1))
        return
    rows: list[dict[str, Any]] = []
    for network in options.network:
        rows.append(measure(network, options.random, options.steps, options.storage))
        for plan in rows[-1]["plans"]:
            schemes = sorted(set(plan["schemes"].values()))
            what = (
                schemes[0]
                if len(schemes) == 1
                else "mixed"
                if schemes
                else f"channels {plan['widths']}"
            )
            print(
                f"{network:18} {plan['macs_ratio']:6.3f} of the MACs, "
                f"lost {plan['loss']:+8.4f}, after a short training {plan['short']:+8.4f}: {what}"
            )
        if options.json:
            options.json.write_text(
                json.dumps(
                    {
                        "command": command_line(),
                        "system": describe_system(),
                        "rows": rows,
                        "fit": fit(rows),
                    },
                    indent=1,
                )
                + "\n"
            )


if __name__ == "__main__":
    main()
