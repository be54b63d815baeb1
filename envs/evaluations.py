"""The purchase of evaluations as a Gymnasium environment: which plan, how precisely, or stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import least_trials_needed
from cprune_rl.envs.cprune_env import ProblemChoice, no_problem
from cprune_rl.envs.planning.evaluation_state import (
    CandidatePlan,
    EvaluationState,
    PlanningSettings,
)
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.replay import (
    EVALUATION_S,
    FINETUNE_S,
    TRIAL_S,
    LossNoise,
    ReplaySettings,
    open_replay,
)
from cprune_rl.errors import ConfigError, DeviceError, UnknownNameError

__all__ = ["EVALUATION_COLUMNS", "EvaluationsEnv"]

_DEFAULT_PROBLEM = "resnet8@znver4-1t:-0.01"
_LIMIT = 10.0
_LEAST = 1e-6  # log latency ratio: what is expected to improve nothing
_RESET_OPTIONS = ("problem",)
_KINDS = ("cheap", "full")
_SECONDS = (EVALUATION_S, FINETUNE_S)
_ROW_COLUMNS = (
    "valid",
    "log_gain",
    "pass_probability",
    "loss_over_allowed",
    "deviation_over_allowed",
    "is_measured",
    "is_asked",
    "is_calibration",
)
_GLOBAL_COLUMNS = (
    "cheap_left",
    "full_left",
    "log_gain_so_far",
    "gate_deviation",
    "allowed_share",
    "floor_drop",
    *(f"device_{name}" for name in DeviceDescriptor.vector_names()),
)
EVALUATION_COLUMNS = (
    *_ROW_COLUMNS,
    *(f"legal_{kind}" for kind in _KINDS),
    *(f"log_seconds_{kind}" for kind in _KINDS),
    *(f"log_improvement_{kind}" for kind in _KINDS),
    *(f"score_{kind}" for kind in _KINDS),
    *_GLOBAL_COLUMNS,
)
"""Columns of an observation, in order; the last are the same in every row."""


class EvaluationsEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Buy evaluations of pruned networks: which plan, how precisely, or stop.

    ## Description
    A planner proposes pruned networks by what it believes of their losses. It cannot know which
    hold the accuracy floor before somebody fine-tunes them. A *cheap* evaluation takes seconds and
    errs; it corrects the belief. A *full* one takes a minute, corrects the belief better, and has
    the final gate judge the network. The goal is the fastest network that the gate lets pass, for
    the least time.

    The environment is a replay of a recorded problem (`envs.problems.replay`): latencies are
    recorded ones, true losses and the oracle's errors are drawn at each reset. The belief is a
    Kalman filter over the losses of groups, and the candidates are the planner's, annealed at
    several degrees of caution (`envs.planning`).

    ## Observation Space
    `Box(-10, 10, (max_rows, 30), float32)`: a row is a candidate, the most promising first. Each
    promises to be faster than the fastest plan that passed. Rows without a candidate are 0.

    "Allowed" is the loss that a plan may have and pass every other time: the slack less the gate's
    margin. "Improvement" is an expected log latency ratio: of a full evaluation, the probability
    that the plan passes times its log gain; of a cheap one, by how much its answer is expected to
    raise the best full one's.

    | Column | Name | Meaning |
    |--------|------|---------|
    | 0 | `valid` | 1: the row is a candidate |
    | 1 | `log_gain` | log latency ratio of the fastest plan that passed to this one, times 2 |
    | 2 | `pass_probability` | probability that the gate lets it pass |
    | 3 | `loss_over_allowed` | expected loss over the allowed one |
    | 4 | `deviation_over_allowed` | standard deviation of that belief over the allowed loss |
    | 5 | `is_measured` | 1: no task of it is interpolated |
    | 6 | `is_asked` | 1: it was evaluated cheaply |
    | 7 | `is_calibration` | 1: it was fine-tuned in full before the episode |
    | 8 | `legal_cheap` | 1: a cheap evaluation is legal |
    | 9 | `legal_full` | 1: a full evaluation is legal |
    | 10 | `log_seconds_cheap` | log10 of the seconds of a cheap one, trials of its tasks included |
    | 11 | `log_seconds_full` | the same of a full one |
    | 12 | `log_improvement_cheap` | half the log of the improvement of a cheap one, plus 3 |
    | 13 | `log_improvement_full` | the same of a full one |
    | 14 | `score_cheap` | half the log of that improvement over the price of its seconds |
    | 15 | `score_full` | the same of a full one |
    | 16 | `cheap_left` | share of the cheap evaluations that are left |
    | 17 | `full_left` | share of the full ones |
    | 18 | `log_gain_so_far` | log latency ratio of the dense network to the fastest that passed |
    | 19 | `gate_deviation` | standard deviation of what the gate finds, in points, times 5 |
    | 20 | `allowed_share` | allowed loss over the slack |
    | 21 | `floor_drop` | accuracy that may be lost in all, in points, over 3 |
    | 22-29 | `device_*` | as columns 41 to 48 of `CPruneEnv` |

    Columns 16 to 29 are the same in every row. `RowPolicy` reads this table as it reads that of
    `CPruneEnv`: its analytic score is the expected improvement for the price, so an untrained one
    buys by cost-aware expected improvement.

    ## Action Space
    `Discrete(2 * max_rows + 1)`. Action `2 * row` evaluates the row's plan cheaply, `2 * row + 1`
    in full. The last action, `2 * max_rows`, stops.

    An action is legal where the row is a candidate, evaluations of the kind are left, and the plan
    was not evaluated so before. Stop is always legal. `info["action_mask"]` and `action_masks()`
    say which actions are legal. An illegal action changes nothing and pays nothing.

    ## Rewards
    The rise of the log latency ratio of the dense network to the fastest plan that passed, less
    `cost_per_s` for each second. So the undiscounted return is exactly `log(dense latency / latency
    of the fastest plan that passed) - cost_per_s * seconds`. Seconds are those of live runs: 2.4 s
    for a cheap evaluation, 48 s for a full one, 0.32 s for each trial of a task that was not
    measured before.

    ## Starting State
    The dense network and the calibration of a run: four plans that were fine-tuned in full, whose
    answers the belief has. Nothing has passed. True losses, the oracle's errors and the gate's
    images are drawn anew at each reset.

    ## Episode End
    1. Termination: the action is stop.
    2. Termination: no action but stop is legal.
    3. Termination: the device is gone (`info["error_type"]` is `"device"`).
    4. Truncation: the episode has 200 steps.

    ## Info
    | Key | Type | Meaning |
    |-----|------|---------|
    | `action_mask` | int8 array | 1: the action is legal; `action_space.sample` takes it |
    | `plan` | `Plan` | the fastest plan that passed; the dense one before |
    | `latency_s` | float | its estimate, in seconds |
    | `dense_latency_s` | float | that of the dense network |
    | `seconds` | float | spent so far |
    | `candidates` | tuple of `Plan` | the plan of each row |
    | `asked` | `Plan` | the plan that was evaluated |
    | `accuracy` | float | what the evaluation found, in [0, 1] |
    | `passed` | bool | after a full one: the gate let it pass |
    | `error_type` | str | after a failure: `"illegal_action"`, `"measurement"` or `"device"` |
    | `error_details` | str | what failed |

    `reset` gives the first six.

    ## Arguments
    ```python
    >>> import gymnasium as gym
    >>> import cprune_rl  # registers the environments
    >>> env = gym.make("cprune_rl/Evaluations-v0", problem="vgg-small@znver4-1t:-0.02")
    >>> obs, info = env.reset(seed=0)

    ```

    | Parameter | Type | Default | Description |
    |-----------|------|---------|-------------|
    | `problem` | see below | `None` | what to solve |
    | `max_rows` | `int` | `12` | candidates of an observation |
    | `n_cheap` | `int` | `12` | cheap evaluations of an episode |
    | `n_full` | `int` | `3` | full ones; the gate is told how many |
    | `cost_per_s` | `float` | `1e-4` | price of a second, as a log latency ratio |
    | `gate_images` | `int` | `50000` | images that the gate judges on |
    | `planning` | `PlanningSettings` | `None` | how candidates are made; quickly if `None` |
    | `render_mode` | `str` | `None` | `"ansi"` gives the candidates as text |

    `problem` is a recording's name or path, which may end in a floor; a `Problem` that lets a
    search ask the final gate; or a callable that draws one from a numpy `Generator`. `None` opens
    `resnet8` with a floor one point below the dense network.

    `reset` takes `options={"problem": ...}` for one episode, in place of the environment's own.

    ## Version History
    * v0: initial version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(  # gymnasium.make gives options by keyword
        self,
        problem: ProblemChoice | None = None,
        *,
        max_rows: int = 12,
        n_cheap: int = 12,
        n_full: int = 3,
        cost_per_s: float = 1e-4,
        gate_images: int = 50_000,
        planning: PlanningSettings | None = None,
        render_mode: str | None = None,
    ) -> None:
        if n_full < 1 or n_cheap < 0:
            raise ConfigError(
                f"n_full={n_full}, n_cheap={n_cheap}: an episode needs a full evaluation at least, "
                "and no less than 0 cheap ones"
            )
        if not 0 <= cost_per_s < math.inf:
            raise ConfigError(f"cost_per_s={cost_per_s} is no price: give 0 or more")
        self._source = problem
        self._max_rows = max_rows
        self._budget = (n_cheap, n_full)
        self._cost_per_s = cost_per_s
        self._gate_images = gate_images
        self._planning = planning or PlanningSettings(first_steps=600, steps=200)
        self.render_mode = render_mode
        shape = (max_rows, len(EVALUATION_COLUMNS))
        self.observation_space = gymnasium.spaces.Box(-_LIMIT, _LIMIT, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(_KINDS) * max_rows + 1)
        self._problem: Problem | None = None
        self._state: EvaluationState | None = None
        self._candidates: list[CandidatePlan] = []
        self._improvements = np.zeros((0, len(_KINDS)))
        self._legal = np.zeros((0, len(_KINDS)), bool)
        self._seconds = np.zeros((0, len(_KINDS)))
        self._left = [n_cheap, n_full]
        self._oracle_error = LossNoise().standard_error
        self._spent_s = 0.0

    @property
    def problem(self) -> Problem:
        """What the present episode solves."""
        if self._problem is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._problem

    @property
    def state(self) -> EvaluationState:
        """What is believed, asked and verified in the present episode."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._state

    @property
    def stop_action(self) -> int:
        """The action that ends the episode."""
        return len(_KINDS) * self._max_rows

    def action_masks(self) -> NDArray[np.bool_]:
        """Say which actions are legal, `(n_actions,)`, by sb3-contrib's convention."""
        mask = np.zeros(self.stop_action + 1, bool)
        mask[: self._legal.size] = self._legal.ravel()
        mask[-1] = True
        return mask

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of true losses, errors and the gate's images.
            options: for this episode alone: `problem`, as the class describes it.

        Raises:
            UnknownNameError: an option is unknown, or no recording has the name.
            ConfigError: the problem lets no search ask the final gate.
            FloorError: nothing can hold the floor.
            DeviceError: the dense network cannot be measured.
        """
        super().reset(seed=seed)
        unknown = set(options or {}) - set(_RESET_OPTIONS)
        if unknown:
            raise UnknownNameError("reset option", min(unknown), _RESET_OPTIONS)
        self._problem = self._draw_problem((options or {}).get("problem", self._source))
        self._left = list(self._budget)
        self._spent_s = 0.0
        rng = np.random.default_rng(int(self.np_random.integers(2**31)))
        self._state = EvaluationState(self._problem, self._budget[1], self._planning, rng)
        self._candidates = []
        self._propose(is_anew=True)
        return self._observation(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Evaluate a plan, or stop."""
        if int(action) == self.stop_action:
            return self._observation(), 0.0, True, False, self._info()
        if not self.action_masks()[int(action)]:
            details = f"action {action} is not legal here: see action_masks"
            failed = {"error_type": "illegal_action", "error_details": details}
            return self._observation(), 0.0, False, False, self._info(**failed)
        row, kind = divmod(int(action), len(_KINDS))
        plan = self._candidates[row].plan
        before_s = self.state.best_s
        seconds = float(self._seconds[row, kind])
        is_gone = False
        try:
            found = self._evaluate(plan, kind)
        except DeviceError as error:
            is_gone = True
            found = {"error_type": "device", "error_details": str(error)}
        self._left[kind] -= 1
        self._spent_s += seconds
        if not is_gone:
            self._propose(is_anew=_KINDS[kind] == "full")
        reward = math.log(before_s / self.state.best_s) - self._cost_per_s * seconds
        terminated = is_gone or not self._legal.any()
        info = self._info(asked=plan, **found)
        return self._observation(), reward, terminated, False, info

    def render(self) -> str | None:
        """Give the candidates as text."""
        if self.render_mode != "ansi":
            return None
        state = self.state
        lines = [
            f"{self.problem.name}: {state.best_s * 1e6:.1f} us passed, dense "
            f"{state.dense_s * 1e6:.1f} us, {self._spent_s:.0f} s spent, "
            f"{self._left[0]} cheap and {self._left[1]} full evaluations left"
        ]
        for candidate in self._candidates:
            loss, deviation = state.belief.expected(candidate.plan)
            lines.append(
                f"{candidate.latency_s * 1e6:9.1f} us  loss {loss:6.2%} +- {deviation:.2%}  "
                f"passes {state.probability(candidate.plan):4.0%}  {candidate.why}"
            )
        return "\n".join(lines)

    def _draw_problem(self, choice: ProblemChoice | None) -> Problem:
        if choice is None or isinstance(choice, str):
            settings = ReplaySettings(
                seed=int(self.np_random.integers(2**31)), gate_images=self._gate_images
            )
            return open_replay(choice or _DEFAULT_PROBLEM, None, settings).problem
        if isinstance(choice, Problem):
            return choice
        if callable(choice):
            return choice(self.np_random)
        raise no_problem(choice)

    def _evaluate(self, plan: Plan, kind: int) -> dict[str, Any]:
        """Measure a plan and have it evaluated; say what was found."""
        problem = self.problem
        state = self.state
        latency_s = problem.measured_s(plan)
        is_full = _KINDS[kind] == "full"
        learn = state.learn_full if is_full else state.learn_cheap
        if not math.isfinite(latency_s):
            learn(plan, None, 0.0)
            return {"error_type": "measurement", "error_details": "a task of the plan fails"}
        if not is_full:
            accuracy = problem.oracle.accuracy(plan)
            self._oracle_error = accuracy.standard_error
            state.learn_cheap(plan, accuracy.value, accuracy.standard_error)
            return {"accuracy": accuracy.value}
        assert problem.full_finetunes is not None
        answer = problem.full_finetunes.look(plan, self._budget[1])
        passed_s = latency_s if answer.holds else math.inf
        state.learn_full(plan, answer.accuracy.value, answer.accuracy.standard_error, passed_s)
        return {"accuracy": answer.accuracy.value, "passed": answer.holds}

    def _propose(self, *, is_anew: bool) -> None:
        """Make candidates, anew or one more, and work out what their evaluations promise."""
        state = self.state
        problem = self.problem
        if self._left[1] == 0:  # nothing can be verified any more
            self._candidates = []
        elif is_anew:
            self._candidates = state.candidates(is_last=self._left[1] == 1)
        else:
            plan = state.fastest_expected()
            if plan is not None and all(plan != c.plan for c in self._candidates):
                why = "fastest that is expected to pass"
                self._candidates.append(CandidatePlan(plan, why, problem.predicted_s(plan)))
        now = [c._replace(latency_s=problem.predicted_s(c.plan)) for c in self._candidates]
        now = [c for c in now if state.log_gain(c) > 0 and c.plan not in state.tried_full]
        now.sort(key=state.full_improvement, reverse=True)
        self._candidates = now[: self._max_rows]
        n_rows = len(self._candidates)
        self._improvements = np.zeros((n_rows, len(_KINDS)))
        self._seconds = np.zeros((n_rows, len(_KINDS)))
        self._legal = np.zeros((n_rows, len(_KINDS)), bool)
        for row, candidate in enumerate(self._candidates):
            others = [c for c in self._candidates if c is not candidate]
            self._improvements[row] = (
                state.cheap_improvement(candidate, others, self._oracle_error),
                state.full_improvement(candidate),
            )
            trials = least_trials_needed(problem.latency, problem.network, candidate.plan)
            self._seconds[row] = TRIAL_S * trials + np.array(_SECONDS)
            self._legal[row] = (
                self._left[0] > 0 and candidate.plan not in state.tried_cheap,
                self._left[1] > 0,
            )

    def _observation(self) -> NDArray[np.float32]:
        observation = np.zeros((self._max_rows, len(EVALUATION_COLUMNS)), np.float32)
        state = self.state
        problem = self.problem
        price = max(self._cost_per_s, _LEAST)
        known = {known.plan for known in problem.known_losses}
        allowed = state.allowed_loss
        for row, candidate in enumerate(self._candidates):
            loss, deviation = state.belief.expected(candidate.plan)
            costs = problem.latency.predict(problem.network.workloads(candidate.plan))
            improvement = np.maximum(self._improvements[row], _LEAST)
            columns = np.concatenate(
                [
                    [
                        1.0,
                        2 * state.log_gain(candidate),
                        state.probability(candidate.plan),
                        loss / allowed,
                        deviation / allowed,
                        all(cost.is_measured for cost in costs),
                        candidate.plan in state.tried_cheap,
                        candidate.plan in known,
                    ],
                    self._legal[row],
                    np.log10(self._seconds[row]),
                    np.log(improvement) / 2 + 3,
                    np.log(improvement / (price * self._seconds[row])) / 2,
                    self._globals(allowed),
                ]
            )
            observation[row] = np.clip(columns, -_LIMIT, _LIMIT)
        return observation

    def _globals(self, allowed: float) -> list[float]:
        state = self.state
        problem = self.problem
        gate = state.gate
        return [
            self._left[0] / max(self._budget[0], 1),
            self._left[1] / self._budget[1],
            math.log(state.dense_s / state.best_s),
            gate.deviation(gate.slack) * 100 * 5,
            allowed / max(gate.slack, _LEAST),
            gate.slack * 100 / 3,
            *problem.descriptor.vector(),
        ]

    def _info(self, **more: Any) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks().astype(np.int8),
            "plan": self.state.best,
            "latency_s": self.state.best_s,
            "dense_latency_s": self.state.dense_s,
            "seconds": self._spent_s,
            "candidates": tuple(candidate.plan for candidate in self._candidates),
            **more,
        }
