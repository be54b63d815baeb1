"""What a trained policy is worth on networks and devices that it was not trained on, in replays
of recorded problems.

`python benchmarks/transfer.py [--part families recorded devices starts live] [--json FILE]
[--picture FILE] [--policies DIR] [--seeds 5] [--trainings 2] [--timesteps 100000]`.

A replay (`cprune_rl.envs.problems.replay`) answers as a device would: a task that was not looked at
is interpolated, true losses
deviate from the curves shown, and an oracle is off by as much as short fine-tunes were found to be
(`loss_model.py`). So this
shows what searches make of costs, not of images. Gains are those of the plan that a run would keep:
the fastest accepted one
that truly holds the floor, backed off to as a run does, by a few full fine-tunes. One of those is
as long as twenty
evaluations; they are counted apart. The gate's own margin is left out. What a live run measures
before it searches, a
uniform plan's tasks, is charged to all but CPrune, which reads nothing of it. Fresh trials
are not counted, tasks looked
at are: a recording does not hold how many trials a task took.

families: policies trained without a family of networks, on that family: resnet8 and resnet20 are
    one. True losses are drawn
around the curve that searches are shown, with other curvatures: close to what the agent, the
surrogate alone and proxy greedy
plan in. recorded: the same, but true losses are the recordings' own, measured group by group, far
from what is shown.

devices: roll-outs of policies trained on one device class, on all, on all without figures of the
    device, and on all but on
generated networks alone, on each class; the networks, but for the last, are among those trained on,
the losses are not.

starts: roll-outs on a family by the policy trained without it, by the same trained on with the
    family for a fifth of the
steps, and by policies trained on the family alone, for as long and in full.

live: results of live runs (`--live`), written by a run as `result.json`, beside what replays of
    the network on the class
`--live-class` promise at the same floor, of the agent with the packaged policy and of
CPrune.

The reference is a long search that knows every latency and loss, or whatever any method found, if
that is better. Shares are
of its log gain; intervals are bootstraps over recordings, whose floors, draws of losses and
trainings are averaged first.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.core.pareto import fastest_holding
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.training import TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.core.search_result import AcceptedPlan, SearchStep, current_method
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.envs.observation import N_FEATURES, N_WIDTHS
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings
from cprune_rl.envs.problems.registry import CLASS_ORDER, recorded_names
from cprune_rl.envs.problems.replay import Replay, ReplaySettings, open_replay
from cprune_rl.pipeline.progress import ProgressLog

FAMILIES = {
    "resnet": ("resnet8", "resnet20"),
    "vgg": ("vgg-small",),
    "mobilenet": ("mobilenetv2-small",),
}
FLOORS = (-0.01, -0.02)
UNCAPPED = 1000  # rejections of proxy greedy: it ends by itself, not by a limit
TURNS = 8  # of the surrogate alone, twice the agent's
MAX_ROWS = 32
PACKAGED = Path(__file__).parents[1] / "agents" / "policies" / "x86-cpu"
FINETUNE = 20  # evaluations that a full fine-tune is as long as


@dataclass(frozen=True)
class Case:
    """One replay: a recording, a floor, a seed of its true losses, and where those come from."""

    name: str
    floor: float
    seed: int
    losses: Literal["drawn", "recorded"] = "drawn"


@dataclass(frozen=True)
class Job:
    """One method on one case.

    Attributes:
        case: what is searched.
        label: of the method, in tables.
        method: of `searcher`, or "reference".
        policy: of the methods that have one.
        training: which of several trainings it is of.
        is_device_hidden: whether the policy is to see no figures of the device.
    """

    case: Case
    label: str
    method: str
    policy: Path | None = None
    training: int = 0
    is_device_hidden: bool = False


def reference(case: Case) -> float:
    """Log gain of a long search that knows every latency and every loss."""
    settings = ReplaySettings(seed=case.seed, losses=case.losses, perfect_information=True)
    problem = open_replay(case.name, case.floor, settings).problem
    search = SurrogateSearch(
        SurrogateSettings(
            turns=1,
            rounds=8,
            first_steps=6000,
            steps=2000,
            margin=1.0,
            fallback_shares=(),
            patience=8,
        ),
        seed=case.seed,
    )
    found = search.search(problem, Budget())
    return math.log(found.accepted[0].latency_s / found.best.latency_s)


def untrained() -> RowPolicy:
    """The analytic prior alone."""
    torch.manual_seed(0)
    space = gymnasium.spaces.Box(-10.0, 10.0, (MAX_ROWS, N_FEATURES), np.float32)
    policy = RowPolicy(space, gymnasium.spaces.Discrete(N_WIDTHS * MAX_ROWS + 1), lambda _: 0.0)
    torch.nn.init.zeros_(policy.action_net.row.weight)
    policy.set_training_mode(False)
    return policy


def searcher(method: str, policy: Path | None) -> Searcher:
    """A method by name; those that need a policy get it."""
    if method in ("roll-out", "agent"):
        assert policy is not None
        trained = load_policy(policy, MAX_ROWS)
        return PolicyRollOut(trained) if method == "roll-out" else PruningAgent(trained)
    if method == "agent, untrained":
        return PruningAgent(untrained())
    ways: dict[str, Any] = {
        "cprune": CPrune,
        "proxy-greedy": lambda: ProxyGreedy(UNCAPPED),
        "surrogate": lambda: SurrogateSearch(SurrogateSettings(turns=TURNS)),
        "prior": lambda: PolicyRollOut(untrained()),
    }
    made: Searcher = ways[method]()
    return made


def run_job(job: Job) -> dict[str, Any]:
    """One method on one case: gain, costs, and how they grew."""
    torch.set_num_threads(1)
    case, told = job.case, {**asdict(job.case), "method": job.label, "training": job.training}
    if job.method == "reference":
        return {**told, "log_gain": reference(case)}
    settings = ReplaySettings(
        seed=case.seed,
        losses=case.losses,
        warm_start=job.method != "cprune",
        is_device_hidden=job.is_device_hidden,
    )
    replay = open_replay(case.name, case.floor, settings)
    problem = replay.problem
    spent: list[tuple[int, int]] = []

    def note(step: SearchStep) -> None:
        if step.accepted:
            spent.append(
                (
                    problem.oracle.spending.accuracy_evaluations,
                    problem.latency.spending.cached_trials,
                )
            )

    found = searcher(job.method, job.policy).search(problem, Budget(), note)
    assert all(a.accuracy >= problem.floor for a in found.accepted)
    curve = [(0, replay.n_tasks, 0.0)]
    for at, (evaluations, tasks) in enumerate(spent, start=2):
        curve.append((evaluations, tasks, finished(replay, found.accepted[:at])[0]))
    gain, n_finetuned = finished(replay, found.accepted)
    total = problem.oracle.spending.accuracy_evaluations, problem.latency.spending.cached_trials
    return {
        **told,
        "log_gain": gain,
        "accuracy_evaluations": total[0],
        "tasks": total[1],
        "full_finetunes": n_finetuned,
        "curve": [*curve, (*total, gain)],
    }


def finished(replay: Replay, accepted: Sequence[AcceptedPlan]) -> tuple[float, int]:
    """Log gain of the plan that a run would keep of those accepted, because it truly holds, and the
    full fine-tunes that it takes to know.
    """
    kept, n_finetuned = fastest_holding(accepted, replay.holds)
    return math.log(accepted[0].latency_s / kept.latency_s), n_finetuned


def train(
    names: Sequence[str],
    folder: Path,
    timesteps: int,
    seed: int,
    is_device_hidden: bool = False,
    init: Path | None = None,
    is_all_generated: bool = False,
) -> Path:
    """A policy trained on recordings and variants of their networks;

    the one that is there already, where it is of the same training.
    """
    card = {
        "trained_on": list(names),
        "timesteps": timesteps,
        "seed": seed,
        "is_device_hidden": is_device_hidden,
        "init": None if init is None else init.name,
    }
    share = 0.0 if is_all_generated else GeneratorSettings.recorded_share
    generated = GeneratorSettings(
        is_device_hidden=is_device_hidden, recorded_share=share, seed=seed
    )
    card["problems"] = json.loads(json.dumps(asdict(generated)))
    file = folder / "policy.json"
    if not file.is_file() or json.loads(file.read_text())["card"] != card:
        problems = GeneratedProblems.from_recordings(names, generated)
        with ProgressLog().track(f"Training {folder.name}", timesteps) as advance:
            trained = train_policy(
                problems,
                TrainingSettings(
                    total_timesteps=timesteps, n_workers=None, max_rows=MAX_ROWS, seed=seed
                ),
                monitor=TrainingMonitor(on_steps=advance),
                start=None if init is None else load_policy(init, MAX_ROWS),
            )
        save_policy(trained.policy, folder, card)
    return folder


def recorded(policies: Path, timesteps: int, seeds: int, trainings: int) -> list[Job]:
    """The families with the recordings' own losses;

    two draws, because their level alone is drawn.
    """
    return families(policies, timesteps, min(seeds, 2), trainings, "recorded")


def families(
    policies: Path,
    timesteps: int,
    seeds: int,
    trainings: int,
    losses: Literal["drawn", "recorded"] = "drawn",
) -> list[Job]:
    """Each family by policies that never met it, beside the rivals."""
    jobs: list[Job] = []
    names = recorded_names()
    for family, networks in FAMILIES.items():
        apart = [n for n in names if n.partition("@")[0] in networks]
        folders = [
            train(
                [n for n in names if n not in apart],
                policies / f"without-{family}-{seed}",
                timesteps,
                seed,
            )
            for seed in range(trainings)
        ]
        for case in (
            Case(n, floor, seed, losses) for n in apart for floor in FLOORS for seed in range(seeds)
        ):
            jobs += [
                Job(case, method, method)
                for method in (
                    "reference",
                    "agent, untrained",
                    "prior",
                    "surrogate",
                    "proxy-greedy",
                    "cprune",
                )
            ]
            jobs += [
                Job(case, method, method, folder, at)
                for method in ("agent", "roll-out")
                for at, folder in enumerate(folders)
            ]
    return jobs


def devices(policies: Path, timesteps: int, seeds: int, trainings: int) -> list[Job]:
    """Roll-outs of the policies of each class, of all, of all without figures of the device, and of
    generated networks alone.
    """
    names = recorded_names()
    cases = [Case(n, floor, seed) for n in names for floor in FLOORS for seed in range(seeds)]
    jobs = [Job(case, "reference", "reference") for case in cases]
    for at in range(trainings):
        ways = {c: ([n for n in names if n.endswith(f"@{c}")], False, False) for c in CLASS_ORDER}
        ways |= {
            "all": (names, False, False),
            "all, device hidden": (names, True, False),
            "all, generated": (names, False, True),
        }
        for label, (chosen, is_hidden, is_generated) in ways.items():
            folder = policies / f"on-{label.replace(', ', '-').replace(' ', '-')}-{at}"
            train(
                chosen,
                folder,
                timesteps,
                at,
                is_device_hidden=is_hidden,
                is_all_generated=is_generated,
            )
            jobs += [Job(case, label, "roll-out", folder, at, is_hidden) for case in cases]
    return jobs


def starts(policies: Path, timesteps: int, seeds: int, trainings: int) -> list[Job]:
    """Roll-outs on a family by policies that never met it, that were trained on with it, and that
    know nothing else.
    """
    jobs: list[Job] = []
    names = recorded_names()
    few = timesteps // 5
    for family, networks in FAMILIES.items():
        own = [n for n in names if n.partition("@")[0] in networks]
        cases = [Case(n, floor, seed) for n in own for floor in FLOORS for seed in range(seeds)]
        jobs += [Job(case, "reference", "reference") for case in cases]
        for at in range(trainings):
            without = train(
                [n for n in names if n not in own],
                policies / f"without-{family}-{at}",
                timesteps,
                at,
            )
            ways = {
                "never met": without,
                f"and {few} steps on it": train(
                    own, policies / f"from-without-{family}-{at}", few, at, init=without
                ),
                f"{few} steps on it alone": train(
                    own, policies / f"briefly-{family}-{at}", few, at
                ),
                f"{timesteps} steps on it alone": train(
                    own, policies / f"only-{family}-{at}", timesteps, at
                ),
            }
            jobs += [
                Job(case, label, "roll-out", folder, at)
                for label, folder in ways.items()
                for case in cases
            ]
    return jobs


def live(results: Sequence[Path], device_class: str, seeds: int) -> list[dict[str, Any]]:
    """What replays promise of a network and floor, and what a live run came to."""
    told: list[dict[str, Any]] = []
    for file in results:
        result = json.loads(file.read_text())
        came = {current_method(r["method"]): r for r in (result, *result["rivals"])}
        for method in ("agent", "cprune"):
            cases = [
                Case(f"{result['model']}@{device_class}", result["floor"], seed)
                for seed in range(seeds)
            ]
            rows = [run_job(Job(case, method, method, PACKAGED)) for case in cases]
            speedups = [math.exp(r["log_gain"]) for r in rows]
            row = {
                "network": result["model"],
                "floor": result["floor"],
                "method": method,
                "results": file.name,
            }
            row["promised"] = {"speedup": [round(f(speedups), 3) for f in (np.mean, min, max)]}
            row["promised"] |= {
                k: round(float(np.mean([r[k] for r in rows])), 1)
                for k in ("accuracy_evaluations", "full_finetunes", "tasks")
            }
            if method in came:
                row["came"] = {
                    "speedup": [
                        round(v, 3) for v in (came[method]["speedup"], *came[method]["speedup_ci"])
                    ]
                }
                row["came"] |= {
                    k: came[method]["cost"][k]
                    for k in ("accuracy_evaluations", "full_finetunes", "fresh_trials")
                }
            told.append(row)
    return told


def shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their share of the best log gain that is known of their case."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        best[_case(row)] = max(best.get(_case(row), 0.0), row["log_gain"])
    return [
        {**row, "share": row["log_gain"] / best[_case(row)] if best[_case(row)] > 0 else 1.0}
        for row in rows
    ]


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["name"], row["floor"], row["seed"]


def _network(row: dict[str, Any]) -> str:
    return str(row["name"]).partition("@")[0]


def interval(values: NDArray[np.float64]) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    if np.ptp(values) == 0:
        return [round(float(values[0]), 4)] * 3
    found = bootstrap(
        (values,), np.mean, n_resamples=4000, random_state=0, method="percentile"
    ).confidence_interval
    return [round(float(v), 4) for v in (values.mean(), found.low, found.high)]


def of_recordings(rows: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """The mean of a figure over the floors, draws and trainings of each recording."""
    names = sorted({r["name"] for r in rows})
    return {n: float(np.mean([r[key] for r in rows if r["name"] == n])) for n in names}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method: share with its interval over recordings, costs, and what the agent has over
    it recording by recording.
    """
    found = []
    agent = of_recordings([r for r in rows if r["method"] == "agent"], "share")
    for method in dict.fromkeys(r["method"] for r in rows):
        of_method = [r for r in rows if r["method"] == method]
        share = of_recordings(of_method, "share")
        told: dict[str, Any] = {"method": method, "share": interval(np.array(list(share.values())))}
        told["speedup"] = round(float(np.exp(np.mean([r["log_gain"] for r in of_method]))), 3)
        for cost in ("accuracy_evaluations", "tasks", "full_finetunes"):
            if cost in of_method[0]:
                told[cost] = round(float(np.mean([r[cost] for r in of_method])), 1)
        if "full_finetunes" in told:
            told["in_evaluations"] = round(
                told["accuracy_evaluations"] + FINETUNE * told["full_finetunes"], 1
            )
        if method != "agent" and agent:
            told["agent_below_it"] = round(_share_below(rows, method), 3)
            told["agent_over_it"] = interval(
                np.array([agent[name] - value for name, value in share.items()])
            )
        found.append(told)
    return found


def _share_below(rows: Sequence[dict[str, Any]], method: str) -> float:
    """In which share of cases the agent ended more than 1 % slower than a method."""
    of_method: dict[tuple[Any, ...], list[float]] = {}
    for r in rows:
        if r["method"] == method:
            of_method.setdefault(_case(r), []).append(r["log_gain"])
    return float(
        np.mean(
            [
                r["log_gain"] < np.mean(of_method[_case(r)]) - 0.01
                for r in rows
                if r["method"] == "agent"
            ]
        )
    )


def at_equal_cost(
    rows: Sequence[dict[str, Any]], cost: str, budgets: Sequence[int]
) -> dict[str, list[list[float]]]:
    """Share of each method once it has spent so much, with its interval:

    what its curve had reached by then.
    """
    at = 0 if cost == "accuracy_evaluations" else 1
    found: dict[str, list[list[float]]] = {}
    for method in dict.fromkeys(r["method"] for r in rows if "curve" in r):
        of_method = [r for r in rows if r["method"] == method]
        found[method] = [
            interval(
                np.array(
                    list(
                        of_recordings(
                            [{**r, "reached": _reached(r, at, b)} for r in of_method], "reached"
                        ).values()
                    )
                )
            )
            for b in budgets
        ]
    return found


def _reached(row: dict[str, Any], at: int, budget: int) -> float:
    gained = next((point[2] for point in reversed(row["curve"]) if point[at] <= budget), 0.0)
    return float(gained / row["log_gain"] * row["share"]) if row["log_gain"] else 0.0


EVALUATIONS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 120)
TASKS = (20, 40, 60, 80, 100, 120, 150, 200, 250, 300, 400)


def matrix(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Share of each policy on each device class, with its interval."""
    policies = [m for m in dict.fromkeys(r["method"] for r in rows) if m != "reference"]
    return {
        p: {c: _on_class([r for r in rows if r["method"] == p], c) for c in CLASS_ORDER}
        for p in policies
    }


def _on_class(rows: Sequence[dict[str, Any]], device_class: str) -> list[float]:
    return interval(
        np.array(
            list(
                of_recordings(
                    [r for r in rows if r["name"].endswith(f"@{device_class}")], "share"
                ).values()
            )
        )
    )


def draw(curves: dict[str, dict[str, list[list[float]]]], file: Path) -> None:
    """Share of the reference's log gain against what was spent."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
    for axes, (cost, budgets, label) in zip(
        panels,
        (
            ("accuracy_evaluations", EVALUATIONS, "accuracy evaluations"),
            ("tasks", TASKS, "tasks looked at"),
        ),
        strict=True,
    ):
        for method, values in curves[cost].items():
            middle, low, high = np.array(values).T
            line = axes.plot(
                budgets,
                middle,
                marker="o",
                markersize=3,
                linewidth=2.4 if method == "agent" else 1.2,
                label=method,
            )
            axes.fill_between(
                budgets, low, high, color=line[0].get_color(), alpha=0.12, linewidth=0
            )
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of the reference's log gain")
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


PARTS = {"families": families, "recorded": recorded, "devices": devices, "starts": starts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="*", choices=[*PARTS, "live"], default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--policies",
        type=Path,
        default=Path("transfer-policies"),
        help="where trained policies are kept",
    )
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5, help="draws of the true losses")
    parser.add_argument(
        "--trainings", type=int, default=2, help="policies of each kind, by other seeds"
    )
    parser.add_argument("--live", type=Path, nargs="*", default=(), help="results of live runs")
    parser.add_argument(
        "--live-class",
        default="znver4-1t",
        help="device class of the recordings that they are set beside",
    )
    options = parser.parse_args()
    if "live" in options.part and not options.live:
        parser.error("--part live takes results: --live FILE ...")
    results: dict[str, Any] = (
        json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    )
    console = Console()
    for part in options.part:
        if part == "live":
            results[part] = {
                "command": command_line(),
                "system": describe_system(),
                "runs": live(options.live, options.live_class, options.seeds),
            }
            console.print(_live_table(results[part]["runs"]))
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
            continue
        jobs = PARTS[part](options.policies, options.timesteps, options.seeds, options.trainings)
        with (
            multiprocessing.get_context("spawn").Pool(2) as pool,
            ProgressLog().track(f"Searching, {part}", len(jobs)) as advance,
        ):
            rows = []
            for done, row in enumerate(pool.imap_unordered(run_job, jobs, chunksize=4), start=1):
                rows.append(row)
                advance(done)
        rows = shares(sorted(rows, key=lambda r: (_case(r), r["method"], r["training"])))
        told: dict[str, Any] = {
            "command": command_line(),
            "system": describe_system(),
            "n_cases": len({_case(r) for r in rows}),
        }
        if part in ("families", "recorded"):
            networks = sorted({_network(r) for r in rows})
            told |= {
                "methods": summary(rows),
                "by_network": {n: summary([r for r in rows if _network(r) == n]) for n in networks},
            }
            told["at_equal_cost"] = {
                cost: {"budgets": list(budgets), **at_equal_cost(rows, cost, budgets)}
                for cost, budgets in (("accuracy_evaluations", EVALUATIONS), ("tasks", TASKS))
            }
            if options.picture and part == "families":
                draw(
                    {
                        cost: {
                            m: v for m, v in told["at_equal_cost"][cost].items() if m != "budgets"
                        }
                        for cost in told["at_equal_cost"]
                    },
                    options.picture,
                )
            console.print(_methods_table(told["methods"]))
        elif part == "starts":
            told |= {
                "methods": summary(rows),
                "by_network": {
                    n: summary([r for r in rows if _network(r) == n])
                    for n in sorted({_network(r) for r in rows})
                },
            }
            console.print(_methods_table(told["methods"]))
        else:
            told |= {"methods": summary(rows), "matrix": matrix(rows)}
            console.print(_matrix_table(told["matrix"]))
        results[part] = told
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


def _methods_table(methods: Sequence[dict[str, Any]]) -> Table:
    view = Table(
        "method",
        "share of the reference's log gain [95 %]",
        "speed-up",
        "evaluations",
        "tasks",
        "full fine-tunes",
        "both, in evaluations",
        "agent over it [95 %]",
        "agent slower",
    )
    for m in sorted(methods, key=lambda m: -m["share"][0]):
        share, over = (
            "{:.3f} [{:.3f}, {:.3f}]".format(*v) if v else ""
            for v in (m["share"], m.get("agent_over_it"))
        )
        spent = (
            str(m.get(name, ""))
            for name in ("accuracy_evaluations", "tasks", "full_finetunes", "in_evaluations")
        )
        view.add_row(
            m["method"],
            share,
            f"{m['speedup']:.2f}",
            *spent,
            over,
            str(m.get("agent_below_it", "")),
        )
    return view


def _live_table(runs: Sequence[dict[str, Any]]) -> Table:
    columns = (
        "network",
        "floor",
        "method",
        "promised: mean [least, most]",
        "evaluations",
        "came [95 %]",
        "evaluations",
    )
    view = Table(*columns, title="Speed-ups that replays promised, and that live runs came to")
    for run in runs:
        told = []
        for side in ("promised", "came"):
            found = run.get(side)
            told += (
                [
                    "{:.2f} [{:.2f}, {:.2f}]".format(*found["speedup"]),
                    str(found["accuracy_evaluations"]),
                ]
                if found
                else ["", ""]
            )
        view.add_row(run["network"], str(run["floor"]), run["method"], *told)
    return view


def _matrix_table(found: dict[str, dict[str, list[float]]]) -> Table:
    view = Table(
        "trained on",
        *CLASS_ORDER,
        title="Share of the reference's log gain by a roll-out, on each class [95 %]",
    )
    for policy, of_class in found.items():
        view.add_row(policy, *("{:.3f} [{:.3f}, {:.3f}]".format(*of_class[c]) for c in CLASS_ORDER))
    return view


if __name__ == "__main__":
    main()
