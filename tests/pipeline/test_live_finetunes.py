"""Full fine-tunes within a search: what is told, and what it costs."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from cprune_rl.accuracy.final_gate import Verdict
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import FullFinetunes
from cprune_rl.pipeline.live_finetunes import LiveFinetunes
from cprune_rl.pipeline.progress import ProgressLog


class ToyGate:
    """Trains nothing; its network is right on nine of ten search images."""

    model = GateModel(n_images=100, dense_accuracy=0.95, floor=0.9)

    def __init__(self, passed: bool) -> None:
        self.passed = passed
        self.asked: list[tuple[nn.Module, int]] = []
        self.trained: list[Plan] = []
        self.trainer = SimpleNamespace(
            judge=lambda network, part: self._judged(part), n_images={"search": 40}
        )

    def _judged(self, part: str) -> Any:
        assert part == "search", "the gate's images say pass or fail and nothing else"
        return np.arange(40) % 10 > 0

    def train(self, plan: Plan, progress: ProgressLog, what: str) -> tuple[nn.Module, float]:
        self.trained.append(plan)
        return nn.Identity(), 2.0 if len(self.trained) == 1 else 0.0

    def judge(self, network: nn.Module, n_looks: int) -> Verdict:
        self.asked.append((network, n_looks))
        return Verdict(
            accuracy=0.93,
            lower_bound=0.91,
            floor=0.9,
            n_looks=n_looks,
            risk=0.05,
            passed=self.passed,
        )

    def search_error(self, accuracy: float) -> float:
        return accuracy / 100


@pytest.mark.parametrize("passed", [True, False])
def test_a_look_tells_the_accuracy_on_search_images_and_what_the_gate_says(
    passed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = ToyGate(passed)
    finetunes = LiveFinetunes(cast("Any", gate), ProgressLog())
    assert isinstance(finetunes, FullFinetunes)
    answer = finetunes.look(Plan((4,)), n_looks=3)
    assert answer.holds is passed
    assert (answer.accuracy.value, answer.accuracy.n_images) == (0.9, 40)
    assert answer.accuracy.standard_error == pytest.approx(0.009)
    assert [n for _, n in gate.asked] == [3]
    assert finetunes.gate is gate.model
    assert finetunes.spending.full_finetunes == 1
    assert finetunes.spending.train_s == answer.accuracy.cost_s == 2.0
    finetunes.look(Plan((5,)), n_looks=3)
    assert finetunes.spending.full_finetunes == 1, "what the cache had is not charged"
    assert "lower bound 0.9100, the floor 0.9000" in capfd.readouterr().err.replace("\n", " ")
