"""The pruning bench: trains networks, and evaluates many plans of each in five ways.

`python benchmarks/pruning_bench.py [--subjects NAME ...] [--out DIR] [--list]`.

A subject is a network on a data set with a seed. Each gets 40 plans: 16 with random paces, 16 where
optimisers go, 8 of single groups. Every plan is recalibrated, fine-tuned for 50 steps without and
with the dense network as the teacher, and for 200 steps; 16 are fine-tuned in full. All are judged
on 24,000 images that nothing was trained on (drawn data; real data gives what it has). Answers are
kept in `--answers`, so that a run which was stopped goes on; a finished subject is a file.

Fashion-MNIST is read from FASHION_MNIST, else from where Debian's package puts it; its subjects are
left out where it is not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_study.group_features import group_features
from bench_study.parts import FOLDER, BenchGroup, BenchPlan, Subject, part_file

from cprune_rl.accuracy.data.fashion_mnist import DEFAULT_FOLDER
from cprune_rl.accuracy.data.generated import DIFFICULTIES, draw_contours
from cprune_rl.accuracy.data.image_data import Split
from cprune_rl.accuracy.oracle import Evaluation, PlanOracle, RecalibrationEvaluation
from cprune_rl.accuracy.trainer import ImageTrainer, labelled_images
from cprune_rl.accuracy.training import TrainSettings, correct_predictions
from cprune_rl.core.atomic_files import write_bytes
from cprune_rl.core.diverse_plans import diverse_plans
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.cost_cache import CostStore, open_store
from cprune_rl.errors import CPruneError
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.oracle_setup import short_finetune
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import load_settings
from cprune_rl.pipeline.trained_model import TrainedModel, load_trained_model

N_PACES = 16
N_LEAST_LOSS = 16
N_SINGLE = 8
N_FULL = 16
N_IMAGES = 24_000
IMAGES_SEED = 1000  # of the drawn images that plans are judged on
RATIOS = (0.4, 0.85)  # mean kept ratios of plans
SINGLE_RATIOS = (0.25, 0.5)
BASE_STEPS = 2000
FULL_STEPS = 1000
NETWORKS = {
    "resnet8-w8": "resnet",
    "resnet14-w8": "resnet",
    "resnet8": "resnet",
    "vgg-w8": "vgg",
    "vgg-small": "vgg",
    "mobilenetv2-w8": "mobilenetv2",
    "mobilenetv2-small": "mobilenetv2",
    "densenet-w8": "densenet",
}
DATA = ("contours", "contours-hard", "fashion-mnist")
SEEDS = (0, 1)
OWN_NETWORKS = Path(__file__).parent / "bench_study" / "networks.py"


@dataclass(frozen=True)
class Job:
    """A subject that can be made."""

    network: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}/{self.data}/{self.seed}"

    @property
    def model(self) -> str:
        """As `--model` takes it."""
        own = self.network.replace("-", "_")
        return (
            f"{OWN_NETWORKS}:{own}" if f"def {own}(" in OWN_NETWORKS.read_text() else self.network
        )

    @property
    def data_name(self) -> str:
        """As `--data` takes it."""
        if self.data == "fashion-mnist":
            return f"fashion-mnist:{os.environ.get('FASHION_MNIST', DEFAULT_FOLDER)}"
        return self.data.replace("-", ":")


def jobs() -> Iterator[Job]:
    """Every network on every data set, the first seed of all before the second."""
    has_fashion = Path(os.environ.get("FASHION_MNIST", DEFAULT_FOLDER)).is_dir()
    for seed in SEEDS:
        for network in NETWORKS:
            for data in DATA:
                if data != "fashion-mnist" or has_fashion:
                    yield Job(network, data, seed)


def make_subject(job: Job, folder: Path, progress: ProgressLog) -> Subject:
    """Train a subject's network and evaluate its plans.

    Args:
        folder: of the answers; what it has is not made again.
    """
    config = load_config(None, {"model": job.model, "data": job.data_name, "seed": job.seed})
    settings = dataclasses.replace(
        load_settings(config),
        training=TrainSettings(n_steps=BASE_STEPS, seed=job.seed),
        is_compiled=False,
    )
    trained = with_many_images(load_trained_model(settings, progress), job)
    full_settings = dataclasses.replace(full_finetune(config), n_steps=FULL_STEPS)
    teacher = full_settings.distillation
    groups = trained.coupled.groups
    network = Network(name=job.name, groups=groups, subgraphs=())
    plans = draw_plans(network, job.seed)
    evaluations: dict[str, Evaluation] = {
        "recalibrate": RecalibrationEvaluation(
            pruner=trained.pruned, weights=trained.weights, trainer=trained.trainer
        ),
        "finetune:50": trained.finetuned(short_finetune(50, job.seed)),
        "finetune:50:teacher": trained.finetuned(
            dataclasses.replace(short_finetune(50, job.seed), distillation=teacher)
        ),
        "finetune:200": trained.finetuned(short_finetune(200, job.seed)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(f"sqlite:///{folder.resolve()}/answers.db")
    try:
        found = {
            name: evaluate(evaluation, trained, store, [p for p, _ in plans], progress, name)
            for name, evaluation in evaluations.items()
        }
        finished = finetune_fully(trained, plans, full_settings, folder, job, progress)
    finally:
        store.close()
    dense = network.dense
    features = group_features(
        trained.model, trained.coupled, trained.example, trained.trainer.accumulate_gradients
    )
    return Subject(
        name=job.name,
        family=NETWORKS[job.network],
        n_images=trained.trainer.n_images["search"],
        n_steps=FULL_STEPS,
        dense_accuracy=trained.dense_accuracy,
        dense_finetuned_accuracy=float(finished[dense].mean()),
        dense_correct=finished[dense],
        groups=tuple(
            BenchGroup(
                name=group.name, channels=group.channels, minimum=group.minimum, features=described
            )
            for group, described in zip(groups, features, strict=True)
        ),
        plans=tuple(
            BenchPlan(
                widths=plan.widths,
                kind=kind,
                accuracy={name: values[at] for name, values in found.items()}
                | ({"full": float(finished[plan].mean())} if plan in finished else {}),
                correct=finished.get(plan),
            )
            for at, (plan, kind) in enumerate(plans)
        ),
        macs=count_macs(trained),
        made={"command": command_line(), "system": describe_system()},
    )


def with_many_images(trained: TrainedModel, job: Job) -> TrainedModel:
    """Judge on as many images as the data can give."""
    data = labelled_images(trained.trainer, "the bench")
    if job.data.startswith("contours"):
        difficulty = job.data.partition("-")[2] or "standard"
        search = draw_contours(N_IMAGES, IMAGES_SEED, DIFFICULTIES[difficulty])
    else:
        parts = (data.search, data.gate, data.test)
        search = Split(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )
    trainer = ImageTrainer(dataclasses.replace(data, search=search))
    return dataclasses.replace(trained, trainer=trainer)


def draw_plans(network: Network, seed: int) -> list[tuple[Plan, str]]:
    """Draw the plans of a subject, each with its kind."""
    rng = np.random.default_rng([seed, 1])
    plans: dict[Plan, str] = {}
    ratios = rng.uniform(*RATIOS, N_PACES)
    for plan in diverse_plans(network, ratios.tolist(), seed):
        plans.setdefault(plan, "pace")
    while sum(kind == "least-loss" for kind in plans.values()) < N_LEAST_LOSS:
        plans.setdefault(least_loss_plan(network, rng), "least-loss")
    groups = rng.permutation(len(network.groups))
    for at in range(N_SINGLE):
        group = int(groups[at % len(groups)])
        ratio = SINGLE_RATIOS[(at // len(groups) + at) % len(SINGLE_RATIOS)]
        channels = network.groups[group].channels
        width = max(round(ratio * channels), network.groups[group].minimum)
        plans.setdefault(network.dense.with_width(group, width), "single")
    return list(plans.items())


def least_loss_plan(network: Network, rng: np.random.Generator) -> Plan:
    """Draw what an optimiser comes to that believes in some factor of each group's loss.

    By Lagrange: where a group's loss is `f (1 - kept)^3.5` and its cost goes with its channels, the
    share that is removed goes with `(cost / f) ^ (1 / 2.5)`.
    """
    channels = np.array(network.dense.widths, float)
    minimum = np.array([group.minimum for group in network.groups])
    factors = np.exp(rng.normal(0.0, 0.6, len(channels)))
    pace = (channels / channels.mean() / factors) ** (1 / 2.5)
    wanted = rng.uniform(*RATIOS)
    low = 0.0
    high = 4.0
    for _ in range(30):
        middle = (low + high) / 2
        kept = np.clip(1 - middle * pace, minimum / channels, 1.0)
        low, high = (middle, high) if kept.mean() > wanted else (low, middle)
    widths = np.clip(np.round(channels * kept), minimum, channels)
    return Plan(tuple(int(width) for width in widths))


def evaluate(
    evaluation: Evaluation,
    trained: TrainedModel,
    store: CostStore,
    plans: list[Plan],
    progress: ProgressLog,
    what: str,
) -> list[float]:
    """Accuracies by one evaluation; those that the store has are not made again."""
    oracle = PlanOracle(
        evaluation=evaluation,
        trainer=trained.trainer,
        store=store,
        dense_accuracy=trained.dense_accuracy,
    )
    with progress.track(what, len(plans)) as advance:
        return [round(v, 6) for v in oracle.evaluate_all(plans, on_plan=advance)]


def finetune_fully(
    trained: TrainedModel,
    plans: list[tuple[Plan, str]],
    settings: TrainSettings,
    folder: Path,
    job: Job,
    progress: ProgressLog,
) -> dict[Plan, np.ndarray]:
    """Fine-tune the dense network and some plans of each kind; which images each is right on."""
    dense = Plan(tuple(group.channels for group in trained.coupled.groups))
    # plans stand by kind: evenly spread, some of each kind are among them
    chosen = np.unique(np.linspace(0, len(plans) - 1, N_FULL).round().astype(int))
    wanted = [dense, *[plans[at][0] for at in chosen]]
    answers: dict[Plan, np.ndarray] = {}
    data = labelled_images(trained.trainer, "the bench")
    with progress.track("full fine-tunes", len(wanted)) as advance:
        for done, plan in enumerate(wanted, start=1):
            key = (
                f"{job.name.replace('/', '@')}-{trained.weights}-{'x'.join(map(str, plan.widths))}"
            )
            file = folder / f"{key}.npy"
            if not file.exists():
                model = trained.pruned(plan)
                trained.trainer.recalibrate(model)
                trained.trainer.train(model, settings, None, trained.model)
                np.save(file, correct_predictions(model, data.search))
            answers[plan] = np.load(file, allow_pickle=False)
            advance(done)
    return answers


def count_macs(trained: TrainedModel) -> int:
    """Multiply-accumulates of the dense network, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        trained.model(trained.example)
    return int(counter.get_total_flops() // 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", nargs="*", help="all where not given")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--answers", type=Path, default=Path("pruning-bench"))
    parser.add_argument("--list", action="store_true", help="say which are there, and end")
    options = parser.parse_args()
    progress = ProgressLog()
    options.out.mkdir(parents=True, exist_ok=True)
    for job in jobs():
        file = options.out / part_file(job.name)
        if options.list:
            progress.print(f"  {job.name:40} {'made' if file.exists() else '-'}")
        elif not file.exists() and (not options.subjects or job.name in options.subjects):
            progress.print(job.name)
            try:
                subject = make_subject(job, options.answers, progress)
            except CPruneError as error:
                progress.print(f"    left out: {error}")
                continue
            write_bytes(file, subject.to_bytes())


if __name__ == "__main__":
    sys.exit(main())
