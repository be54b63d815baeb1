"""How the accuracy that a plan loses is best told beforehand, fitted to plans fine-tuned in full.

`python benchmarks/loss_model.py [--oracles docs/results/accuracy_oracles.json] [--json FILE]`.

The plans are those of `accuracy_oracles.py`. A model says `loss = sum over groups of factor x curve
+ noise`. The factors of a network have a level in common and a deviation each, in proportion to it;
the noise is that of images and of training. Fitted by maximum likelihood are a level for each
network and seed, and one deviation and one noise for all.

Curves are the same for every group, by several powers of what was removed, or those that a
recording holds: each group pruned alone, to two widths, and fine-tuned for a few steps, two
evaluations a group. The recording's network was trained by another seed or at another time, while
plans of a run are evaluated by curves of that very network: read the difference as an upper bound.
The power was chosen on the plans that it is compared on, which are all of half the dense latency.
Full means what `accuracy_oracles.py` was told by `--steps`.

So the power is also fitted to each network alone, and uniform curves are tried on each network with
power, deviation and noise fitted to the others (the level stays its own: a run fits that).

What oracles answered, calibrated, is set beside the full fine-tunes: how far off is the answer that
a search gets? Part of that is the same for all plans, part goes with what was pruned, part is
noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from cprune_rl.accuracy.calibration import Calibration
from cprune_rl.core.intervals import rank_correlation
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.envs.problems.registry import read_recording

POWERS = (1.0, 2.0, 3.0, 3.5, 4.0, 5.0)
FINER = tuple(np.arange(2.0, 5.01, 0.5))
ORACLES = ("finetune:20", "finetune:50", "finetune:200", "supernet")
N_CALIBRATING = 4
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "accuracy_oracles.json"

Curves = list[NDArray[np.float64]]
"""What is predicted of each group, `(n_plans, n_groups)`, of each network and seed."""


def negative_log_likelihood(
    parameters: Sequence[float], curves: Curves, losses: list[NDArray[np.float64]]
) -> float:
    """Of log deviation of the groups, log noise, and the log level of each network."""
    deviation, noise = np.exp(parameters[:2])
    total = 0.0
    for curve, loss, level in zip(curves, losses, np.exp(parameters[2:]), strict=True):
        covariance = (level * deviation) ** 2 * curve @ curve.T + noise**2 * np.eye(len(loss))
        residual = loss - level * curve.sum(axis=1)
        total += 0.5 * (
            np.linalg.slogdet(covariance)[1] + residual @ np.linalg.solve(covariance, residual)
        )
    return float(total)


def fit(name: str, curves: Curves, losses: list[NDArray[np.float64]]) -> dict[str, Any]:
    """The most likely deviation, noise and levels, and how well plans are ranked."""
    levels = [
        np.log(max(float(loss.mean()), 1e-4) / curve.sum(axis=1).mean())
        for curve, loss in zip(curves, losses, strict=True)
    ]
    starts = [
        np.array([np.log(deviation), np.log(0.002), *levels]) for deviation in (0.2, 0.5, 1.0)
    ]
    found = min(
        (
            minimize(
                negative_log_likelihood,
                s,
                (curves, losses),
                "Nelder-Mead",
                options={"maxiter": 20_000, "maxfev": 20_000},
            )
            for s in starts
        ),
        key=lambda o: o.fun,
    )
    correlations = [
        rank_correlation(curve.sum(axis=1), loss)
        for curve, loss in zip(curves, losses, strict=True)
    ]
    return {
        "curves": name,
        "log_likelihood": round(-float(found.fun), 2),
        "group_deviation": round(float(np.exp(found.x[0])), 3),
        "noise": round(float(np.exp(found.x[1])), 5),
        "levels": [round(float(v), 4) for v in np.exp(found.x[2:])],
        "level_deviation": round(float(np.std(found.x[2:], ddof=1)), 3),
        "rank_correlation": [[round(v, 3) for v in (c.value, c.low, c.high)] for c in correlations],
    }


def of_networks(
    networks: Sequence[str], kept: Curves, losses: list[NDArray[np.float64]]
) -> list[dict[str, Any]]:
    """For each network the likeliest power of its own plans, and how likely they are by what was
    fitted to the others.
    """
    found = []
    for network in dict.fromkeys(networks):
        own, others = (
            [i for i, name in enumerate(networks) if (name == network) is wanted]
            for wanted in (True, False)
        )

        def likeliest(chosen: Sequence[int]) -> tuple[float, dict[str, Any]]:
            fits = {
                p: fit("", [(1 - kept[i]) ** p for i in chosen], [losses[i] for i in chosen])
                for p in FINER
            }
            power = max(fits, key=lambda p: float(fits[p]["log_likelihood"]))
            return float(power), fits[power]

        power, alone = likeliest(own)
        elsewhere, fitted = likeliest(others)
        shape = np.log([fitted["group_deviation"], fitted["noise"]])
        curves, truth = [(1 - kept[i]) ** elsewhere for i in own], [losses[i] for i in own]
        start = np.log(alone["levels"])
        # The function is called in this round only.
        told = minimize(
            lambda levels: negative_log_likelihood([*shape, *levels], curves, truth),  # noqa: B023
            start,
            method="Nelder-Mead",
        )
        found.append(
            {
                "network": network,
                "power": power,
                "log_likelihood": alone["log_likelihood"],
                "power_of_others": elsewhere,
                "log_likelihood_by_others": round(-float(told.fun), 2),
                "level_deviation_between_seeds": alone["level_deviation"],
            }
        )
    return found


def calibrated(
    name: str,
    powers: Curves,
    levels: Sequence[float],
    answers: list[NDArray[np.float64]],
    losses: list[NDArray[np.float64]],
) -> dict[str, Any]:
    """How far an oracle's calibrated losses are from those of full fine-tunes.

    Returns:
        `bias`: log deviation that all answers of a calibration on `N_CALIBRATING` plans have in
            common, for each network and seed.
        `group`: deviation of what a group is said to lose from what it loses.
        `noise`: of what no sum over groups explains, in accuracy, of the answers.
        `residual`: root mean square of what is left of both, in accuracy, for each network and
            seed.
    """
    rng = np.random.default_rng(0)
    told = [
        np.array([Calibration.fit(list(zip(raw, loss, strict=True)))(float(r)) for r in raw])
        for raw, loss in zip(answers, losses, strict=True)
    ]
    errors = [t - loss for t, loss in zip(told, losses, strict=True)]

    def unlikeliness(parameters: Sequence[float]) -> float:
        deviation, noise = np.exp(parameters)
        total = 0.0
        for curve, error, level in zip(powers, errors, levels, strict=True):
            covariance = (level * deviation) ** 2 * curve @ curve.T + noise**2 * np.eye(len(error))
            total += 0.5 * (
                np.linalg.slogdet(covariance)[1] + error @ np.linalg.solve(covariance, error)
            )
        return float(total)

    found = min(
        (
            minimize(unlikeliness, np.log([start, 0.002]), method="Nelder-Mead")
            for start in (0.2, 0.5, 1.0)
        ),
        key=lambda o: o.fun,
    )
    bias = []
    for raw, loss in zip(answers, losses, strict=True):
        common = []
        for _ in range(400):
            order = rng.permutation(len(loss))
            chosen = order[:N_CALIBRATING]
            judged = order[N_CALIBRATING:]
            calibration = Calibration.fit([(float(raw[i]), float(loss[i])) for i in chosen])
            common.append(
                float(
                    np.log(
                        np.mean([calibration(float(raw[i])) for i in judged]) / loss[judged].mean()
                    )
                )
            )
        bias.append(round(float(np.sqrt(np.mean(np.square(common)))), 3))
    return {
        "oracle": name,
        "bias": bias,
        "group": round(float(np.exp(found.x[0])), 3),
        "noise": fit(name, powers, told)["noise"],
        "residual": [round(float(np.sqrt(np.mean(np.square(e)))), 5) for e in errors],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oracles", type=Path, default=RESULTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    told_rows = [
        row for run in json.loads(options.oracles.read_text())["runs"] for row in run["rows"]
    ]
    subjects = [row for row in told_rows if row["oracle"] == "truth"]
    recordings = [read_recording(f"{s['network']}@znver4-1t") for s in subjects]
    kept = [
        np.array(s["plans"]) / np.array(r.network.dense.widths)
        for s, r in zip(subjects, recordings, strict=True)
    ]
    losses = [s["dense_accuracy"] - np.array(s["accuracy"]) for s in subjects]
    rows = [
        fit(f"even, power {power:g}", [(1 - k) ** power for k in kept], losses) for power in POWERS
    ]
    rows.append(
        fit(
            "group by group",
            [
                r.loss_model.scale * (1 - k) ** r.loss_model.power
                for k, r in zip(kept, recordings, strict=True)
            ],
            losses,
        )
    )
    names = [f"{s['network']}, seed {s['seed']}" for s in subjects]
    networks = of_networks([s["network"] for s in subjects], kept, losses)
    likeliest = max(rows[: len(POWERS)], key=lambda row: float(row["log_likelihood"]))
    curves = [(1 - k) ** POWERS[rows.index(likeliest)] for k in kept]
    oracles = []
    for oracle in ORACLES:
        asked = [row for row in told_rows if row["oracle"] == oracle]
        answers = [
            s["dense_accuracy"] - np.array(a["accuracy"])
            for s, a in zip(subjects, asked, strict=True)
        ]
        oracles.append(calibrated(oracle, curves, likeliest["levels"], answers, losses))
    if options.json:
        told = {
            "command": command_line(),
            "system": describe_system(),
            "subjects": names,
            "rows": rows,
            "networks": networks,
            "calibrated": oracles,
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    view = Table(
        "curves",
        "log likelihood",
        "deviation of groups",
        "noise, points",
        "deviation of levels",
        *names,
    )
    for row in rows:
        correlations = [f"{c[0]:.2f}" for c in row["rank_correlation"]]
        view.add_row(
            row["curves"],
            f"{row['log_likelihood']:.1f}",
            f"{row['group_deviation']:.2f}",
            f"{100 * row['noise']:.2f}",
            f"{row['level_deviation']:.2f}",
            *correlations,
        )
    view.caption = "Rank correlation with the losses of full fine-tunes, for each network and seed"
    alone = Table(
        "network",
        "its own power",
        "log likelihood",
        "power of the others",
        "log likelihood by the others",
        "deviation of levels between seeds",
    )
    for n in networks:
        alone.add_row(
            n["network"],
            *(
                f"{n[key]:.2f}"
                for key in (
                    "power",
                    "log_likelihood",
                    "power_of_others",
                    "log_likelihood_by_others",
                    "level_deviation_between_seeds",
                )
            ),
        )
    console = Console()
    console.print(view, alone)
    off = Table(
        "oracle",
        "bias of a calibration",
        "deviation of groups",
        "noise, points",
        "residual, points",
        title="Calibrated losses against those of full fine-tunes",
    )
    for o in oracles:
        bias, residual = (
            " ".join(f"{scale * v:.2f}" for v in o[key])
            for key, scale in (("bias", 1), ("residual", 100))
        )
        off.add_row(o["oracle"], bias, f"{o['group']:.2f}", f"{100 * o['noise']:.2f}", residual)
    console.print(off)


if __name__ == "__main__":
    main()
