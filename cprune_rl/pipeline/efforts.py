"""How much work the parts of a run do, by `--effort`."""

from __future__ import annotations

from dataclasses import dataclass, field

from cprune_rl.compiler.tuning.budget import DENSE_WORTH_S, TuningBudget, TuningSettings

__all__ = ["EFFORTS", "Effort"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work each part of a run does.

    Attributes:
        base_steps: training of the base network.
        finetune_steps: full fine-tune of finalists and calibration plans.
        oracle_steps: short fine-tune inside the loop.
        supernet_steps: of the supernet's training, where one is asked for.
        proof_plans: of equal latency, fine-tuned in full to see whether the supernet ranks them.
        tuning: how hard tasks are tuned.
        sweep: kept ratios of the plans measured for the cost model.
        scheme_sweep: densities at which every kind of scheme is measured for it, where layers are
            to be pruned so; the first is tuned as hard as the dense network.
        calibration: kept ratios of the plans fine-tuned in full to calibrate the oracle.
        scheme_calibration: densities of those that are pruned by schemes, in turns by kernels and
            by blocks.
        total_timesteps: of the agent's training.
        mapping_timesteps: of the training of the agent that gives layers schemes.
        n_cheap: answers of the oracle that the agent may ask for.
        n_full: full fine-tunes that it may ask for, each a look of the final gate.
        turns: of searches that cannot ask the gate, see `agents.planner.surrogate`.
        timing_rounds: interleaved rounds of the final timing.
    """

    base_steps: int = 3000
    finetune_steps: int = 1000
    oracle_steps: int = 50
    supernet_steps: int = 1200
    proof_plans: int = 10
    tuning: TuningSettings = field(default_factory=TuningSettings)
    sweep: tuple[float, ...] = (0.5,)
    scheme_sweep: tuple[float, ...] = (0.25, 0.0625)
    calibration: tuple[float, ...] = (0.8, 0.65, 0.5, 0.35)
    scheme_calibration: tuple[float, ...] = (0.5, 0.25, 0.35, 0.15)
    total_timesteps: int = 100_000
    mapping_timesteps: int = 20_000
    n_cheap: int = 24
    n_full: int = 3
    turns: int = 4
    timing_rounds: int = 60


_FAST = Effort(
    base_steps=800,
    finetune_steps=200,
    oracle_steps=30,
    supernet_steps=300,
    proof_plans=6,
    tuning=TuningSettings(
        survey=TuningBudget(n_pool=2, n_random=2, n_max=2),
        dense=TuningBudget(n_pool=2, n_random=4, n_max=6, worth_s=DENSE_WORTH_S),
        near=TuningBudget(n_pool=2, n_random=1, n_max=3),
        n_shared=1,
    ),
    calibration=(0.75, 0.5),
    scheme_calibration=(0.5, 0.25),
    total_timesteps=6_144,
    mapping_timesteps=2_048,
    n_cheap=4,
    n_full=2,
    turns=2,
    timing_rounds=20,
)
EFFORTS = {
    # the defaults above, and those of `TuningSettings`
    "full": Effort(),
    "light": Effort(
        finetune_steps=500,
        n_cheap=12,
        calibration=(0.75, 0.5),
        scheme_calibration=(0.4, 0.2),
        tuning=TuningSettings(
            survey=TuningBudget(n_pool=4, n_random=8, n_max=8),
            dense=TuningBudget(n_pool=4, n_random=12, n_max=32, worth_s=DENSE_WORTH_S),
            near=TuningBudget(n_pool=3, n_random=1, n_max=4),
            n_shared=2,
        ),
    ),
    "quick": Effort(
        finetune_steps=300,
        calibration=(0.65, 0.45),
        scheme_calibration=(0.4, 0.2),
        tuning=TuningSettings(
            survey=TuningBudget(n_pool=3, n_random=3, n_max=3),
            dense=TuningBudget(n_pool=4, n_random=8, n_max=16, worth_s=DENSE_WORTH_S),
            near=TuningBudget(n_pool=3, n_random=1, n_max=4),
            n_shared=1,
        ),
        n_cheap=8,
        n_full=2,
        turns=2,
        timing_rounds=40,
    ),
    "fast": _FAST,
}
