"""CPrune as a Gymnasium environment: one class, two sources of cost.

`cprune_rl/CPrune-v0` measures through TVM; `cprune_rl/CPruneRecorded-v0` reads a recording. The state is
the subgraph table, an action narrows a task's groups, a step that the gate refuses is undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.contracts import TaskCost
from cprune_rl.envs.observation import N_FEATURES, N_WIDTHS, EpisodeState, Move, Observer, list_moves
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.reward import Outcome, get_reward
from cprune_rl.errors import DeviceError
from cprune_rl.table import Plan, SubgraphTable

__all__ = ["CPruneEnv"]

ProblemSampler = Callable[[np.random.Generator], Problem]


class CPruneEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Prunes one network for one device, one legal step at a time.

    Observation: `Box(max_rows, N_FEATURES)`, a row for each task (see `observation.FEATURES`), padded.
    Action: `Discrete(3 * max_rows + 1)`: row x {1, 2, 4} legal steps; the last one stops.
    Reward: log latency ratio of an accepted step, else 0, so that the return is `log(dense / final)`.

    An episode ends at stop, after `max_rejections`, or when nothing is legal; it is truncated at
    `max_steps`. `info` holds plan, latency, accuracy and whether the step was accepted; a failed
    measurement is a rejected step with `error_type` and `error_details`; a device that is gone ends the
    episode where it stands, with `error_type` "device".

    Args:
        problem: what to solve; a callable draws a new one at each reset; a name or a path opens a
            recorded one; None opens the packaged recording.
        max_rows: rows of the observation. Only padding: policies do not depend on it.
        max_steps: truncation.
        max_rejections: the episode ends after so many.
        reward: name of the reward (see `envs.reward`).
        render_mode: "ansi" prints the table.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(
        self,
        problem: Problem | ProblemSampler | str | None = None,
        max_rows: int = 32,
        max_steps: int = 200,
        max_rejections: int = 8,
        reward: str = "gated",
        render_mode: str | None = None,
    ) -> None:
        if problem is None or isinstance(problem, str):
            from cprune_rl.envs.recordings import open_recorded

            problem = open_recorded(problem)
        self._source = problem
        self._max_rows, self._max_steps, self._max_rejections = max_rows, max_steps, max_rejections
        self._reward = get_reward(reward)
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (max_rows, N_FEATURES), np.float32)
        self.action_space = gymnasium.spaces.Discrete(N_WIDTHS * max_rows + 1)
        self._problem: Problem | None = None
        self._state: EpisodeState | None = None
        self._moves: dict[int, Move] = {}
        self._observer: Observer | None = None
        self.failure: DeviceError | None = None  # that ended the episode

    @property
    def problem(self) -> Problem:
        """What the current episode solves."""
        if self._problem is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._problem

    @property
    def state(self) -> EpisodeState:
        """Where the current episode stands."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._state

    @property
    def stop_action(self) -> int:
        """The action that ends the episode."""
        return N_WIDTHS * self._max_rows

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal, `(3 * max_rows + 1,)`: sb3-contrib's convention. Stop always is."""
        mask = np.zeros(self.stop_action + 1, bool)
        mask[list(self._moves)] = True
        mask[-1] = True
        return mask

    def move(self, action: int) -> Move | None:
        """What a legal action would do; None for stop."""
        return self._moves.get(int(action))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts from the dense network.

        Raises:
            DeviceError: the dense network cannot be measured.
        """
        super().reset(seed=seed)
        self.failure = None
        problem = self._source if isinstance(self._source, Problem) else self._source(self.np_random)
        self._problem = problem
        dense, n_groups = problem.network.dense, len(problem.network.groups)
        costs = problem.latency.measure(dense)
        table = _table(problem, dense, costs)
        self._state = EpisodeState(dense, costs, table, problem.dense_accuracy, table.latency_s, [0] * n_groups, np.zeros(n_groups), np.zeros(n_groups))
        self._list_moves()
        return self._observation(), self._info()

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Tries an action; a masked one changes nothing, pays nothing and counts as a rejection."""
        state, move = self.state, self._moves.get(int(action))
        if int(action) == self.stop_action:
            return self._observation(), 0.0, True, False, self._info(stopped=True)
        state.n_steps += 1
        before_s = state.table.latency_s
        try:
            info = self._try(move) if move is not None else self._refuse(int(action))
        except DeviceError as error:
            self.failure = error
            info = {"accepted": False, "tried_latency_s": math.inf, "tried_accuracy": 0.0, "error_type": "device", "error_details": str(error)}
        outcome = Outcome(info["accepted"], before_s, info["tried_latency_s"], info["tried_accuracy"], self.problem.floor)
        self._list_moves()
        terminated = state.n_rejections >= self._max_rejections or not self._moves or self.failure is not None
        truncated = bool(state.n_steps >= self._max_steps and not terminated)
        return self._observation(), self._reward(outcome), terminated, truncated, self._info(**info)

    def render(self) -> str | None:
        """The subgraph table as text."""
        if self.render_mode != "ansi":
            return None
        state = self.state
        lines = [f"{self.problem.name}: {state.table.latency_s * 1e6:.1f} us, accuracy {state.accuracy:.4f}, floor {self.problem.floor:.4f}"]
        for row in state.table.rows:
            name = self.problem.network.subgraphs[row.subgraphs[0]].name
            lines.append(f"{name:28} x{row.weight} {row.workload.channels_in:4} -> {row.workload.channels_out:4} {row.latency_s * 1e6:9.1f} us")
        return "\n".join(lines)

    def _refuse(self, action: int) -> dict[str, Any]:
        self.state.n_rejections += 1
        details = f"action {action} is not legal here; see action_masks()"
        return {"accepted": False, "tried_latency_s": math.inf, "tried_accuracy": 0.0, "error_type": "illegal_action", "error_details": details}

    def _try(self, move: Move) -> dict[str, Any]:
        """Measures a move and asks the gate; keeps it, or undoes it and remembers the widths."""
        state, problem = self.state, self.problem
        costs = problem.latency.measure(move.plan)
        failed = next((c for c in costs if c.error is not None or not math.isfinite(c.latency_s)), None)
        if failed is not None:
            self._reject(move)
            return {"accepted": False, "tried_latency_s": math.inf, "tried_accuracy": 0.0, "error_type": "measurement", "error_details": failed.error or "no latency"}
        judged = problem.oracle.accuracy(move.plan)
        accuracy = judged.value
        table = _table(problem, move.plan, costs)
        self._learn_loss(move, accuracy)
        accepted = accuracy >= problem.floor
        if accepted:
            state.plan, state.costs, state.table, state.accuracy = move.plan, costs, table, accuracy
        else:
            self._reject(move)
        return {"accepted": accepted, "tried_latency_s": table.latency_s, "tried_accuracy": accuracy, "standard_error": judged.standard_error}

    def _reject(self, move: Move) -> None:
        self.state.n_rejections += 1
        for g in move.groups:
            self.state.banned[g] = max(self.state.banned[g], move.plan.widths[g])

    def _learn_loss(self, move: Move, accuracy: float) -> None:
        """Shares the loss that a step brought between its groups, as it was predicted."""
        state, problem = self.state, self.problem
        dense = np.array(problem.network.dense.widths, float)
        predicted = problem.curves.loss(np.array(move.plan.widths) / dense) - problem.curves.loss(np.array(state.plan.widths) / dense)
        state.predicted += predicted
        state.realised += predicted / max(float(predicted.sum()), 1e-12) * max(state.accuracy - accuracy, 0.0)

    def _list_moves(self) -> None:
        moves = list_moves(self.problem.network, self.state.table, self.state.banned, self._max_rows)
        self._moves = {m.row * N_WIDTHS + m.width: m for m in moves}

    def _observation(self) -> NDArray[np.float32]:
        if self._observer is None or self._observer.network is not self.problem.network:
            self._observer = Observer(self.problem.network, self._max_rows)
        return self._observer.observe(self.problem, self.state, list(self._moves.values()))

    def _info(self, **more: Any) -> dict[str, Any]:
        state = self.state
        return {"plan": state.plan, "latency_s": state.table.latency_s, "accuracy": state.accuracy, "dense_latency_s": state.dense_latency_s, **more}


def _table(problem: Problem, plan: Plan, costs: list[TaskCost]) -> SubgraphTable:
    return SubgraphTable.build(problem.network, plan, costs)
