"""What a trained policy is worth on networks and devices that it was not trained on, on recorded costs.

`python benchmarks/transfer.py [--part families devices] [--json FILE] [--picture FILE] [--policies DIR] [--seeds 5] [--timesteps 100000]`.

Latencies are those of the packaged recordings, and a search sees of them what it would see of a device: true ones of the
tasks that it looks at, else an interpolation of what it has looked at and of a few uniform plans (which those that use it
are charged with). Losses are drawn: a recording's curves are what is shown, the truth deviates from them as the generator's
problems do, a seed for each. So this shows what the searches make of costs, not of images; a live run shows both.

families: a policy trained without a network, on that network, for each network. devices: policies of one device class, of
all, and of all without the device's figures, on each class. The reference is a long search that knows the truth, or
whatever any method found, if that is better. Shares are of its log gain; a task looked at costs 7 to 19 fresh trials live.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from cprune_rl.agents.agent import PolicyRollOut, PruningAgent
from cprune_rl.agents.greedy import GreedyCPrune
from cprune_rl.agents.policy import RowPolicy, load_policy, save_policy
from cprune_rl.agents.proxy_greedy import ProxyGreedy
from cprune_rl.agents.searcher import Budget, Searcher, SearchStep
from cprune_rl.agents.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.training import TrainingSettings, train_policy
from cprune_rl.contracts import LossCurves
from cprune_rl.cost_cache.interpolation import CostModel, EstimatedCosts
from cprune_rl.cost_cache.recorded import RecordedCosts, RecordedTasks
from cprune_rl.envs.curves import CurveOracle
from cprune_rl.envs.generator import GeneratedProblems, GeneratorSettings
from cprune_rl.envs.observation import N_FEATURES, N_WIDTHS
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.recordings import CLASS_ORDER, Recording, read_recording, recorded_names
from cprune_rl.job.progress import Reporter
from cprune_rl.machine import command_line, describe_system

SWEEP = (0.8, 0.6, 0.4)  # uniform plans whose tasks are known from the start, as in a live run
FLOORS = (0.01, 0.02)
WITHOUT_SWEEP = ("greedy",)  # asks for no cheap looks
MAX_ROWS = 32


@dataclass(frozen=True)
class Case:
    """One problem: a recording, a floor, and a seed of its true losses and of the device's noise."""

    name: str
    drop: float
    seed: int


@cache
def recording_of(name: str) -> tuple[Recording, RecordedTasks]:
    """A recording and its tasks, read once in each process."""
    recording = read_recording(name)
    return recording, RecordedTasks(recording.costs)


def truth_of(case: Case) -> LossCurves:
    """The losses that a case really has."""
    curves, s = recording_of(case.name)[0].curves, GeneratorSettings()
    rng = np.random.default_rng([case.seed, *case.name.encode()])
    n = len(curves.scale)
    scale = curves.scale * np.exp(rng.normal(0.0, s.level_sigma) + rng.normal(0.0, s.loss_sigma, n))
    return LossCurves(scale, np.clip(curves.power + rng.normal(0.0, s.power_sigma, n), 0.8, 4.0))


def open_case(case: Case, is_known: bool = False) -> tuple[Problem, int]:
    """The problem as a search meets it, or with everything known; and the tasks that it was given."""
    recording, tasks = recording_of(case.name)
    network, truth = recording.network, truth_of(case)
    costs = RecordedCosts(network, tasks, case.seed)
    given = 0
    latency: Any = costs
    if not is_known:
        latency = EstimatedCosts(network, costs, CostModel())
        for plan in (network.dense, *(network.uniform(r) for r in SWEEP)):
            latency.measure(plan)
        given = costs.spending.cached_trials
    oracle = CurveOracle(network, truth, recording.dense_accuracy)
    shown = truth if is_known else recording.curves
    return Problem(case.name, network, latency, oracle, shown, recording.dense_accuracy, recording.dense_accuracy - case.drop, recording.descriptor), given


def reference(case: Case) -> float:
    """Log gain of a long search that knows every latency and every loss."""
    problem, _ = open_case(case, is_known=True)
    problem.latency.measure(problem.network.dense)
    search = SurrogateSearch(SurrogateSettings(rounds=8, first_steps=6000, steps=2000, margin=1.0, patience=8, seed=case.seed))
    found = search.search(problem, Budget())
    return math.log(found.accepted[0].latency_s / found.best.latency_s)


def untrained() -> RowPolicy:
    """The analytic prior alone."""
    torch.manual_seed(0)
    space = gymnasium.spaces.Box(-10.0, 10.0, (MAX_ROWS, N_FEATURES), np.float32)
    policy = RowPolicy(space, gymnasium.spaces.Discrete(N_WIDTHS * MAX_ROWS + 1), lambda _: 0.0)  # type: ignore[arg-type]  # their kinds are known
    torch.nn.init.zeros_(policy.action_net.row.weight)
    policy.set_training_mode(False)
    return policy


def searcher(method: str, policy: Path | None) -> Searcher:
    """A method by name; those that need a policy get it."""
    if method in ("roll-out", "agent"):
        assert policy is not None
        trained = load_policy(policy, MAX_ROWS)
        return PolicyRollOut(trained) if method == "roll-out" else PruningAgent(trained)
    return {"greedy": GreedyCPrune, "proxy-greedy": ProxyGreedy, "surrogate": SurrogateSearch, "prior": lambda: PolicyRollOut(untrained())}[method]()


def run_case(job: tuple[Case, str, str, Path | None]) -> dict[str, Any]:
    """One method on one case: gain, costs, and how they grew."""
    case, label, method, policy = job
    torch.set_num_threads(1)
    if method == "reference":
        return {**asdict(case), "method": label, "log_gain": reference(case)}
    problem, given = open_case(case)
    given = 0 if method in WITHOUT_SWEEP else given
    before_evaluations, before_tasks = problem.oracle.spending.accuracy_evaluations, problem.latency.spending.cached_trials
    dense_s = sum(c.latency_s for c in problem.latency.measure(problem.network.dense))
    curve: list[tuple[int, int, float]] = [(0, given, 0.0)]

    def note(step: SearchStep) -> None:
        gain = math.log(dense_s / step.latency_s) if step.accepted else 0.0
        spent = problem.oracle.spending.accuracy_evaluations - before_evaluations, problem.latency.spending.cached_trials - before_tasks + given
        curve.append((*spent, max(curve[-1][2], gain)))

    found = searcher(method, policy).search(problem, Budget(), note)
    assert all(a.accuracy >= problem.floor for a in found.accepted)
    assert abs(curve[-1][2] - math.log(dense_s / found.best.latency_s)) < 1e-9
    kept = [point for at, point in enumerate(curve) if at == len(curve) - 1 or point[2] != curve[max(at - 1, 0)][2]]
    return {**asdict(case), "method": label, "log_gain": curve[-1][2], "accuracy_evaluations": curve[-1][0], "tasks": curve[-1][1], "curve": kept}


def train(names: Sequence[str], folder: Path, timesteps: int, is_device_hidden: bool = False) -> Path:
    """A policy trained on recordings and variants of their networks, or the one that is there already."""
    if not (folder / "policy.json").is_file():
        problems = GeneratedProblems(names, GeneratorSettings(is_device_hidden=is_device_hidden))
        with Reporter().part(f"Training {folder.name}", timesteps) as advance:
            trained = train_policy(problems, TrainingSettings(timesteps, n_workers=2, max_rows=MAX_ROWS), on_steps=advance)
        save_policy(trained.policy, folder, {"trained_on": list(names), "timesteps": timesteps, "is_device_hidden": is_device_hidden})
    return folder


def families(policies: Path, timesteps: int, seeds: int) -> list[tuple[Case, str, str, Path | None]]:
    """Each network by a policy that never met it, beside the rivals."""
    jobs: list[tuple[Case, str, str, Path | None]] = []
    names = recorded_names()
    for network in sorted({n.partition("@")[0] for n in names}):
        policy = train([n for n in names if n.partition("@")[0] != network], policies / f"without-{network}", timesteps)
        for case in (Case(n, drop, seed) for n in names if n.partition("@")[0] == network for drop in FLOORS for seed in range(seeds)):
            jobs += [(case, method, method, policy) for method in ("reference", "agent", "roll-out", "prior", "surrogate", "proxy-greedy", "greedy")]
    return jobs


def devices(policies: Path, timesteps: int, seeds: int) -> list[tuple[Case, str, str, Path | None]]:
    """Roll-outs of the policies of each class, of all, and of all without figures of the device."""
    names = recorded_names()
    trained = {c: train([n for n in names if n.endswith(f"@{c}")], policies / f"class-{c}", timesteps) for c in CLASS_ORDER}
    trained["all"] = train(names, policies / "all", timesteps)
    trained["all, no descriptor"] = train(names, policies / "all-hidden", timesteps, is_device_hidden=True)
    cases = [Case(n, drop, seed) for n in names for drop in FLOORS for seed in range(seeds)]
    return [(case, "reference", "reference", None) for case in cases] + [(case, label, "roll-out", folder) for case in cases for label, folder in trained.items()]


def shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their share of the best log gain that is known of their case."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        best[_case(row)] = max(best.get(_case(row), 0.0), row["log_gain"])
    return [{**row, "share": row["log_gain"] / best[_case(row)] if best[_case(row)] > 0 else 1.0} for row in rows]


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["name"], row["drop"], row["seed"]


def _network(row: dict[str, Any]) -> str:
    return str(row["name"]).partition("@")[0]


def interval(values: NDArray[np.float64]) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    if np.ptp(values) == 0:
        return [float(values[0])] * 3
    found = bootstrap((values,), np.mean, n_resamples=4000, random_state=0, method="percentile").confidence_interval
    return [round(float(v), 4) for v in (values.mean(), found.low, found.high)]


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method: share with its interval over problems and seeds, costs, and what the agent has over it case by case."""
    by_method: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[_case(row)] = row
    found = []
    for method, of_case in by_method.items():
        told: dict[str, Any] = {"method": method, "share": interval(np.array([r["share"] for r in of_case.values()]))}
        told["speedup"] = round(float(np.exp(np.mean([r["log_gain"] for r in of_case.values()]))), 3)
        for cost in ("accuracy_evaluations", "tasks"):
            if cost in next(iter(of_case.values())):
                told[cost] = round(float(np.mean([r[cost] for r in of_case.values()])), 1)
        if method != "agent" and "agent" in by_method:
            told["agent_over_it"] = interval(np.array([by_method["agent"][case]["share"] - r["share"] for case, r in of_case.items()]))
        found.append(told)
    return found


def at_equal_cost(rows: Sequence[dict[str, Any]], cost: str, budgets: Sequence[int]) -> dict[str, list[float]]:
    """Mean share of each method once it has spent so much: what its curve had reached by then."""
    at = 0 if cost == "accuracy_evaluations" else 1
    found: dict[str, list[float]] = {}
    for method in dict.fromkeys(r["method"] for r in rows if "curve" in r):
        of_method = [r for r in rows if r["method"] == method]
        found[method] = [round(float(np.mean([_reached(r, at, budget) for r in of_method])), 4) for budget in budgets]
    return found


def _reached(row: dict[str, Any], at: int, budget: int) -> float:
    gained = max((point[2] for point in row["curve"] if point[at] <= budget), default=0.0)
    return float(gained / row["log_gain"] * row["share"]) if row["log_gain"] else 0.0


EVALUATIONS = (2, 5, 10, 15, 20, 25, 30, 40, 60, 80, 120)
TASKS = (40, 60, 80, 100, 120, 150, 200, 250, 300, 400)


def matrix(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Share of each policy on each device class, with its interval."""
    policies = [m for m in dict.fromkeys(r["method"] for r in rows) if m != "reference"]
    return {p: {c: interval(np.array([r["share"] for r in rows if r["method"] == p and r["name"].endswith(f"@{c}")])) for c in CLASS_ORDER} for p in policies}


def draw(curves: dict[str, dict[str, list[float]]], file: Path) -> None:
    """Share of the reference's log gain against what was spent."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
    for axes, (cost, budgets, label) in zip(panels, (("accuracy_evaluations", EVALUATIONS, "accuracy evaluations"), ("tasks", TASKS, "tasks looked at")), strict=True):
        for method, values in curves[cost].items():
            axes.plot(budgets, values, marker="o", markersize=3, linewidth=2.4 if method == "agent" else 1.2, label=method)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of the reference's log gain")
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=["families", "devices"], default=["families", "devices"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--policies", type=Path, default=Path("transfer-policies"), help="where trained policies are kept")
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    console = Console()
    for part in options.part:
        jobs = {"families": families, "devices": devices}[part](options.policies, options.timesteps, options.seeds)
        with multiprocessing.get_context("spawn").Pool(2) as pool, Reporter().part(f"Searching, {part}", len(jobs)) as advance:
            rows = []
            for done, row in enumerate(pool.imap_unordered(run_case, jobs, chunksize=4), start=1):
                rows.append(row)
                advance(done)
        rows = shares(sorted(rows, key=lambda r: (_case(r), r["method"])))
        told: dict[str, Any] = {"command": command_line(), "system": describe_system(), "n_cases": len({_case(r) for r in rows})}
        if part == "families":
            networks = sorted({_network(r) for r in rows})
            told |= {"methods": summary(rows), "by_network": {n: summary([r for r in rows if _network(r) == n]) for n in networks}}
            told["at_equal_cost"] = {
                cost: {"budgets": list(budgets), **at_equal_cost(rows, cost, budgets)} for cost, budgets in (("accuracy_evaluations", EVALUATIONS), ("tasks", TASKS))
            }
            if options.picture:
                draw({cost: {m: v for m, v in told["at_equal_cost"][cost].items() if m != "budgets"} for cost in told["at_equal_cost"]}, options.picture)
            console.print(_methods_table(told["methods"]))
        else:
            told |= {"methods": summary(rows), "matrix": matrix(rows)}
            console.print(_matrix_table(told["matrix"]))
        results[part] = told
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


def _methods_table(methods: Sequence[dict[str, Any]]) -> Table:
    view = Table("method", "share of the reference's log gain [95 %]", "speed-up", "evaluations", "tasks", "agent over it [95 %]")
    for m in sorted(methods, key=lambda m: -m["share"][0]):
        share, over = ("{:.3f} [{:.3f}, {:.3f}]".format(*v) if v else "" for v in (m["share"], m.get("agent_over_it")))
        view.add_row(m["method"], share, f"{m['speedup']:.2f}", str(m.get("accuracy_evaluations", "")), str(m.get("tasks", "")), over)
    return view


def _matrix_table(found: dict[str, dict[str, list[float]]]) -> Table:
    view = Table("trained on", *CLASS_ORDER, title="Share of the reference's log gain by a roll-out, on each class [95 %]")
    for policy, of_class in found.items():
        view.add_row(policy, *("{:.3f} [{:.3f}, {:.3f}]".format(*of_class[c]) for c in CLASS_ORDER))
    return view


if __name__ == "__main__":
    main()
