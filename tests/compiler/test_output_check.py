"""Outputs of tasks, compared with torch's: a schedule that is fast and wrong must not win."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cprune_rl.compiler.tuning.output_check import OutputCheck
from cprune_rl.core.protocols import Artifact, Measurement
from tests.conftest import Lowered, lower

NO_ARTIFACT = Artifact(path="", shapes=(), dtypes=())


class FalseDevice:
    """A device whose convolution is wrong by a factor, or that is gone."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def run(
        self, artifact: Artifact, arguments: list[np.ndarray]
    ) -> tuple[np.ndarray, ...] | Measurement:
        if not self._factor:
            return Measurement(error="gone")
        data, weights, bias = (torch.from_numpy(a) for a in arguments)
        right = (functional.conv2d(data, weights, None, 1, 1) + bias).relu()
        return (right.numpy() * self._factor,)


@pytest.mark.parametrize(
    ("factor", "complaint"), [(1.0, None), (1.1, "wrong output"), (0.0, "gone")]
)
def test_a_schedule_that_computes_something_else_is_found_out(
    lowered: Lowered, factor: float, complaint: str | None
) -> None:
    call = lowered.variants.all[0].calls[1]
    packings = (None,) * (len(call.shapes) - 1)
    problem = OutputCheck(call, packings, FalseDevice(factor))(NO_ARTIFACT)  # type: ignore[arg-type]
    assert problem is None if complaint is None else complaint in str(problem)


class ZeroDevice:
    """A device on which every task gives zeros."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def run(self, artifact: Artifact, arguments: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (np.zeros(self._shape, np.float32),)


def test_every_convolution_of_a_narrower_network_is_compared_with_torchs_in_every_variant() -> None:
    variants = lower("mobilenetv2-small").variants
    for variant in variants.all:
        narrower = variant.lowered(variants.network.uniform(0.7))
        for call in narrower.calls:
            check = OutputCheck(call, narrower.packings(call), ZeroDevice(call.shapes[-1]))  # type: ignore[arg-type]
            if any(operator.name == "nn.conv2d" for operator in call.operators):
                message = f"{variant.layout} {call.function}"
                assert "wrong output" in str(check(NO_ARTIFACT)), message
