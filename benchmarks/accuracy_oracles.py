"""How well each accuracy oracle ranks plans that only accuracy tells apart, what a look costs, and
what it takes to train.

`python benchmarks/accuracy_oracles.py [--json FILE] [--network NAME ...] [--plans 20] [--seeds 0
1]`. For each network
and seed: 20 random plans of the same estimated latency, half the dense network's, each fine-tuned
in full; then the
same plans by each oracle, and the rank correlation (Spearman, with a bootstrap interval over the
plans). Latencies are
read out of the packaged recordings: nothing is compiled. Answers are kept (`--storage`), so that a
run which was stopped
goes on. Each network needs a packaged recording of the class znver4-1t.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cprune_rl.accuracy.oracle import (
    Evaluation,
    FinetuneEvaluation,
    PlanOracle,
    RecalibrationEvaluation,
)
from cprune_rl.accuracy.trainer import ImageTrainer, labelled_images
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.intervals import rank_correlation
from cprune_rl.core.network import Plan
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.cost_cache import open_store
from cprune_rl.envs.problems.registry import read_recording, recorded_names
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.equal_latency import equal_latency_plans
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.oracle_setup import supernet_evaluation
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import load_settings, oracle_settings
from cprune_rl.pipeline.trained_model import load_trained_model

NETWORKS = tuple(
    sorted({name.partition("@")[0] for name in recorded_names() if name.endswith("@znver4-1t")})
)
_SHARE = 0.5  # of the dense latency
_BATCH = 4  # plans that are looked at together
_FEW = 1000  # images that a cheaper look is judged on
LOOKS = ("look_s", "look_cpu_s", "look_few_cpu_s", "look_in_batch_s")


def measure(
    network: str, seed: int, n_plans: int, storage: str, steps: int | None = None
) -> list[dict[str, Any]]:
    """One network and seed: a row for each oracle.

    Args:
        network: a packaged one with a recording.
        seed: of the base network, the plans and every training.
        n_plans: of equal latency.
        storage: keeps every answer.
        steps: of the full fine-tune; a run's own where not given.
    """
    progress = ProgressLog()
    config = load_config(
        None,
        {
            "model": network,
            "seed": seed,
            "device": f"recorded:{network}@znver4-1t",
            "storage": storage,
        },
    )
    trained_model = load_trained_model(load_settings(config), progress)
    recording = read_recording(f"{network}@znver4-1t")
    plans = equal_latency_plans(
        recording.network,
        InterpolatedLatency(recording.network, LatencyInterpolator(recording.costs)),
        _SHARE,
        count=n_plans,
        seed=seed,
    )
    dense_accuracy = trained_model.dense_accuracy
    store = open_store(storage)
    settings = full_finetune(config)
    full = trained_model.finetuned(
        settings if steps is None else dataclasses.replace(settings, n_steps=steps)
    )
    started = time.perf_counter()
    supernet = supernet_evaluation(oracle_settings(config).supernet, trained_model, progress)
    training_s = {"supernet": time.perf_counter() - started}
    evaluations: dict[str, RecalibrationEvaluation | FinetuneEvaluation] = {
        "macs": full,
        "recalibrate": RecalibrationEvaluation(
            pruner=trained_model.pruned,
            weights=trained_model.weights,
            trainer=trained_model.trainer,
        ),
    }
    evaluations |= {
        f"finetune:{n}": trained_model.finetuned(
            TrainSettings(n_steps=n, learning_rate=0.02, warmup=0.1, seed=seed)
        )
        for n in (20, 50, 200)
    }
    evaluations["supernet"] = supernet
    truth = _answers(
        PlanOracle(
            evaluation=full,
            trainer=trained_model.trainer,
            store=store,
            dense_accuracy=dense_accuracy,
        ),
        plans,
        full,
        progress,
        f"{network}: full fine-tunes",
    )
    asked: dict[str, Any] = {
        "network": network,
        "seed": seed,
        "dense_accuracy": round(dense_accuracy, 5),
        "plans": [list(p.widths) for p in plans],
    }
    rows: list[dict[str, Any]] = [
        {**asked, "oracle": "truth", "accuracy": [round(float(v), 5) for v in truth]}
    ]
    for name, evaluation in evaluations.items():
        oracle = PlanOracle(
            evaluation=evaluation,
            trainer=trained_model.trainer,
            store=store,
            dense_accuracy=dense_accuracy,
        )
        values = (
            np.array([float(recording.network.macs(p)) for p in plans])
            if name == "macs"
            else _answers(oracle, plans, evaluation, progress, f"{network}: {name}")
        )
        found = rank_correlation(values, truth)
        rows.append(
            {
                "network": network,
                "seed": seed,
                "oracle": name,
                "rank_correlation": [round(v, 3) for v in (found.value, found.low, found.high)],
                **(dict.fromkeys(LOOKS, 0.0) if name == "macs" else _look_s(evaluation, plans)),
                "training_s": round(training_s.get(name, 0.0), 1),
                "bias": 0.0 if name == "macs" else round(float((values - truth).mean()), 4),
                "n_plans": len(plans),
                "spread_of_truth": round(float(truth.max() - truth.min()), 4),
                "accuracy": [round(float(v), 5) for v in values] if name != "macs" else [],
            }
        )
    store.close()
    return rows


def _answers(
    oracle: PlanOracle, plans: list[Plan], evaluation: Evaluation, progress: ProgressLog, what: str
) -> NDArray[np.float64]:
    with progress.track(what, len(plans)) as advance:
        return np.array(oracle.evaluate_all(plans, evaluation, advance))


def _look_s(
    evaluation: RecalibrationEvaluation | FinetuneEvaluation, plans: list[Plan]
) -> dict[str, float]:
    """Of `LOOKS`: seconds of one look, of all cores in it, of all cores on a thousand images, and
    of a look where several plans are looked at together.
    """
    evaluation(plans[0])  # the first may have to load something
    one_s, cpu_s = _timed(evaluation, plans[0])
    data = labelled_images(evaluation.trainer, "the benchmark")
    search = data.search
    few = dataclasses.replace(search, images=search.images[:_FEW], labels=search.labels[:_FEW])
    _, few_cpu_s = _timed(
        dataclasses.replace(
            evaluation, trainer=ImageTrainer(dataclasses.replace(data, search=few))
        ),
        plans[0],
    )
    batch = plans[:_BATCH]
    started = time.perf_counter()
    list(evaluation.evaluate_many(batch))
    in_batch_s = (time.perf_counter() - started) / len(batch)
    return dict(
        zip(LOOKS, (round(v, 3) for v in (one_s, cpu_s, few_cpu_s, in_batch_s)), strict=True)
    )


def _timed(evaluation: Evaluation, plan: Plan) -> tuple[float, float]:
    started, started_cpu = time.perf_counter(), time.process_time()
    evaluation(plan)
    return time.perf_counter() - started, time.process_time() - started_cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", default=NETWORKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1))
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--steps", type=int, help="of the full fine-tune")
    parser.add_argument(
        "--storage",
        default="sqlite:///accuracy-oracles.db",
        help="keeps every answer, so that a run which was stopped goes on",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for network in options.network:
        for seed in options.seeds:
            rows += measure(network, seed, options.plans, options.storage, options.steps)
            if options.json:
                options.json.write_text(
                    json.dumps(
                        {"command": command_line(), "system": describe_system(), "rows": rows},
                        indent=1,
                    )
                    + "\n"
                )
    view = Table(
        "network",
        "seed",
        "oracle",
        "rank correlation [95 %]",
        "s a look",
        "CPU s",
        f"CPU s, {_FEW} images",
        "s in a batch",
        "s of training",
        "bias",
    )
    for row in (r for r in rows if r["oracle"] != "truth"):
        value, low, high = row["rank_correlation"]
        view.add_row(
            row["network"],
            str(row["seed"]),
            row["oracle"],
            f"{value:.2f} [{low:.2f}, {high:.2f}]",
            f"{row['look_s']:.2f}",
            f"{row['look_cpu_s']:.2f}",
            f"{row['look_few_cpu_s']:.2f}",
            f"{row['look_in_batch_s']:.2f}",
            f"{row['training_s']:.0f}",
            f"{row['bias']:+.3f}",
        )
    Console().print(view)


if __name__ == "__main__":
    main()
