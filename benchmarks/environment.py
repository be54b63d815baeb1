"""How fast the packaged recorded environment steps and the agent trains, on this machine.

`python benchmarks/environment.py [--problem NAME] [--json FILE]`. Steps a second are of this
process' own CPU time
(`time.process_time`), on one thread, so that somebody else's work on the machine does not count as
ours: what one core
gives. Training of one policy for many problems is timed by the clock, on all cores. Absolute speeds
depend on the
machine; the ratios (training against stepping, a step against one fresh trial's 0.35 s) are what to
compare.
"""

import argparse
import json
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.envs.problems.generated import GeneratedProblems, ProblemSource
from cprune_rl.envs.problems.registry import describe_recorded, open_recorded, recorded_names
from cprune_rl.latency.interpolation import LatencyInterpolator


def steps_a_second(n_steps: int, problem: str | None) -> float:
    """Random legal actions in `cprune_rl/CPruneRecorded-v0`, resets included, for each second of
    CPU time.
    """
    env = gymnasium.make("cprune_rl/CPruneRecorded-v0", problem=problem).unwrapped
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    started = time.process_time()
    for _ in range(n_steps):
        *_, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        if terminated or truncated:
            env.reset()
    return n_steps / (time.process_time() - started)


def training_steps_a_second(n_steps: int, problem: str | None) -> float:
    """MaskablePPO end to end on variations of the recorded problem, for each second of CPU time."""
    recorded = open_recorded(problem)
    measured = LatencyInterpolator(recorded.latency.interpolator.measured_tasks())
    source = ProblemSource(
        name=recorded.name,
        network=recorded.network,
        interpolator=measured,
        loss_model=recorded.loss_model,
        dense_accuracy=recorded.dense_accuracy,
        descriptor=recorded.descriptor,
    )
    problems = GeneratedProblems.from_source(source)
    started = time.process_time()
    train_policy(problems, TrainingSettings(total_timesteps=n_steps))
    return n_steps / (time.process_time() - started)


def policy_training_steps_a_second(n_steps: int) -> float:
    """One policy for many problems, as `cprune-rl train --device-class '*'` trains it, on all
    cores, by the clock; reading the recordings not included.
    """
    problems = GeneratedProblems.from_recordings(recorded_names())
    started = time.perf_counter()
    train_policy(problems, TrainingSettings(total_timesteps=n_steps, n_workers=None))
    return n_steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--problem", help="name or path of a recording; the default one where not given"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps_a_second(500, options.problem)  # the first steps fill memos
    stepping = float(np.median([steps_a_second(2000, options.problem) for _ in range(3)]))
    training = training_steps_a_second(8192, options.problem)
    torch.set_num_threads(os.cpu_count() or 1)
    recording = describe_recorded(options.problem)
    figures = {
        "problem": recording.name,
        "basis": "CPU time of the process, one thread; policy_training by the clock, on all cores",
        "n_cores": os.cpu_count(),
        "env_steps_a_second": round(stepping),
        "training_steps_a_second": round(training),
        "training_over_stepping": round(training / stepping, 2),
        "policy_training_steps_a_second": round(policy_training_steps_a_second(102_400)),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
