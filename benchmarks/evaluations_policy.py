"""What training adds to a policy that buys evaluations (`cprune_rl/Evaluations-v0`).

`python benchmarks/evaluations_policy.py [--families resnet vgg mobilenet] [--timesteps 20000]
[--seeds 8] [--json FILE]`.

For each family a policy is trained on recordings of the other families. It is compared with the
same policy untrained, which buys by cost-aware expected improvement, in the same episodes of the
family that it never met: those of seeds 100 and up, which development did not use. The difference
of returns is averaged over the seeds of a recording, and its interval is a bootstrap over
recordings.

The rule ships in place of the policy where the interval's lower end is below 0.01.

A family that the file has is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap
from stable_baselines3.common.vec_env import SubprocVecEnv

from cprune_rl.agents.rl.learners import find_learner
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.envs.evaluations import EvaluationsEnv
from cprune_rl.envs.wrappers import RandomOrderProblems

FAMILIES = {
    "resnet": ("resnet8", "resnet20"),
    "vgg": ("vgg-small",),
    "mobilenet": ("mobilenetv2-small",),
}
CLASSES = ("znver4-1t", "haswell-1t")
FIRST_SEED = 100
BAR = 0.01  # of the return, a log latency ratio less the price of the seconds
N_ENVS = 4


def problems(family: str) -> list[str]:
    """Name the recordings of a family, at a floor one point below the dense network."""
    return [f"{name}@{device}:-0.01" for name in FAMILIES[family] for device in CLASSES]


def make_training_env(names: list[str], seed: int) -> Callable[[], RandomOrderProblems]:
    """Say how to make an environment that draws a recording for each episode."""
    return lambda: RandomOrderProblems(EvaluationsEnv(), names, seed=seed)


def train(family: str, timesteps: int) -> RowPolicy:
    """Train without a family."""
    names = [name for other in FAMILIES if other != family for name in problems(other)]
    env = SubprocVecEnv([make_training_env(names, seed) for seed in range(N_ENVS)])
    learner = find_learner("ppo")
    options = {"n_steps": 64, "batch_size": 128}
    model = learner.make(env, lambda left: 3e-4 * left, seed=0, options=options)
    model.learn(timesteps)
    env.close()
    return learner.policy_of(model)


def untrained() -> RowPolicy:
    """Make a policy whose analytic score alone decides."""
    env = EvaluationsEnv()
    return RowPolicy(env.observation_space, env.action_space, lambda _: 0.0, prior=100.0)


def play(policy: RowPolicy, problem: str, seed: int) -> dict[str, float]:
    """Play an episode; give its return, log gain and seconds."""
    env = EvaluationsEnv(problem)
    observation, info = env.reset(seed=seed)
    total = 0.0
    ended = False
    while not ended:
        action, _ = policy.predict(observation, action_masks=env.action_masks(), deterministic=True)
        observation, reward, ended, _, info = env.step(int(action))
        total += reward
    gain = float(np.log(info["dense_latency_s"] / info["latency_s"]))
    return {"return": total, "log_gain": gain, "seconds": info["seconds"]}


def compare(family: str, timesteps: int, n_seeds: int) -> dict[str, Any]:
    """Compare the policies on the recordings of a family."""
    policies = {"untrained": untrained(), "trained": train(family, timesteps)}
    return {
        name: {
            problem: [play(policy, problem, FIRST_SEED + number) for number in range(n_seeds)]
            for problem in problems(family)
        }
        for name, policy in policies.items()
    }


def show(families: dict[str, Any], console: Console) -> None:
    """Print returns, and what training adds."""
    table = Table("recording", "untrained", "trained", "difference")
    differences = []
    for episodes in families.values():
        for problem in episodes["untrained"]:
            means = [
                np.mean([episode["return"] for episode in episodes[name][problem]])
                for name in ("untrained", "trained")
            ]
            differences.append(means[1] - means[0])
            table.add_row(problem, *(f"{mean:.3f}" for mean in means), f"{differences[-1]:+.3f}")
    console.print(table)
    if len(differences) > 1:
        # the default, BCa, has no interval where all differences are equal
        drawn = bootstrap((differences,), np.mean, method="percentile", rng=0)
        interval = drawn.confidence_interval
        console.print(
            f"training adds {np.mean(differences):+.3f} [{interval.low:.3f}, {interval.high:.3f}] "
            f"to the return: {'the policy' if interval.low >= BAR else 'the rule'} ships"
        )


def main() -> None:
    """Train and compare, family by family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--timesteps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("evaluations_policy.json"))
    arguments = parser.parse_args()
    settings = {"timesteps": arguments.timesteps, "seeds": arguments.seeds}
    kept: dict[str, Any] = {"settings": settings, "families": {}}
    if arguments.json.exists():
        kept = json.loads(arguments.json.read_text())
        if kept["settings"] != settings:
            parser.error(f"{arguments.json} was made with {kept['settings']}: name another file")
    for family in arguments.families:
        if family not in kept["families"]:
            kept["families"][family] = compare(family, arguments.timesteps, arguments.seeds)
            kept |= {"system": describe_system(), "command": command_line()}
            write_text(arguments.json, json.dumps(kept, indent=1))
    show(kept["families"], Console())


if __name__ == "__main__":
    main()
