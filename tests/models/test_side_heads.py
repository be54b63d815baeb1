"""The outputs of a network in training mode: which is the main one, and which are side heads'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cprune_rl.errors import ModelError
from cprune_rl.models.side_heads import SideHeads, layers_in_evaluation, tensors_by_name
from tests.doubles.side_heads import FORMS, SideHeaded

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def made(form: str) -> SideHeaded:
    torch.manual_seed(0)
    return SideHeaded(form).train()


@pytest.mark.parametrize("form", FORMS)
def test_the_main_output_is_the_one_that_evaluation_mode_gives(form: str) -> None:
    model = made(form)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with layers_in_evaluation(model):
        output = model(IMAGES)
    expected = model.eval()(IMAGES)
    heads = SideHeads(model.train()).split(output, IMAGES)
    torch.testing.assert_close(heads.main, expected)
    assert [side.shape for side in heads.sides] == [expected.shape]
    assert heads.others == (("0",) if "map" in form else ())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), state, atol=0, rtol=0)


def test_one_tensor_is_the_main_output_and_nothing_is_run_for_it() -> None:
    heads = SideHeads(nn.Linear(3, 3)).split(IMAGES, IMAGES)
    assert heads.main is IMAGES
    assert heads.sides == ()


class Changed(nn.Module):
    """Gives in training mode what it gives nowhere else."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        scores = self.fc(x.mean((2, 3)))
        return self.form(scores + 1, scores + 2) if self.training else scores


@pytest.mark.parametrize(
    ("form", "main"),
    [
        (lambda one, two: (one, two), 1),
        (lambda one, two: {"aux": one, "out": two}, 2),
        (lambda one, two: {"aux": one, "logits": two}, 2),
    ],
)
def test_the_first_or_a_usual_name_stands_for_it_where_none_is_the_same(
    form: Any, main: int
) -> None:
    model = Changed(form).train()
    heads = SideHeads(model).split(model(IMAGES), IMAGES)
    torch.testing.assert_close(heads.main, model.eval()(IMAGES) + main)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda one, two: {"a": one, "b": two}, r"a dict of 'a' \(4, 5\), 'b' \(4, 5\), .*put the"),
        (lambda one, _: (one[:, :2],), r"a tuple of '0' \(4, 2\).*\(n, 5\)"),
        (lambda *_: "nothing", "a str of no tensors"),
    ],
)
def test_outputs_of_no_known_form_are_refused_in_one_line(form: Any, message: str) -> None:
    model = Changed(form).train()
    with pytest.raises(ModelError, match=message) as raised:
        SideHeads(model).split(model(IMAGES), IMAGES)
    assert "\n" not in str(raised.value)


def test_names_of_nested_outputs_are_joined() -> None:
    nested = ({"x": IMAGES}, [IMAGES, None], 3.0)
    assert list(tensors_by_name(nested)) == ["0.x", "1.0"]
