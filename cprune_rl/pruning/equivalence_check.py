"""A group is pruned only where removing its channels computes what masking them computes.

What is known of operators may be wrong: a forward may count on numbers of channels. So a third of
each group's channels are removed, and then masked instead. The answers are compared, and what each
layer writes where it writes as many channels both times. All groups are tried together first.
Where the two differ, halves are tried until the groups at fault are found.

Differences are judged against what the masks change, in double precision: then neither a large
logit nor a confident softmax hides anything. Many residual branches begin with scales of zero,
which would hide a difference: such scales are drawn anew in the copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from cprune_rl.models.copies import copy_network
from cprune_rl.pruning.channel_state import LAYERS
from cprune_rl.pruning.channel_trace import tensors_in
from cprune_rl.pruning.slices import ChannelSlices

__all__ = ["find_unsafe_groups", "randomize_zero_scales"]

# The largest difference that rounding explains: a share of what the masks change, and of the values
# themselves. In single precision a value has seven digits, and errors add up over layers.
_TOLERANCES = {torch.float64: (1e-6, 1e-11), torch.float32: (1e-3, 1e-5)}
_KEPT = 2 / 3
_ZERO = 1e-3  # a scale whose entries are all smaller lets nothing through


def find_unsafe_groups(
    model: nn.Module, slices: ChannelSlices, example: torch.Tensor, groups: Mapping[str, int]
) -> dict[str, str]:
    """Finds the groups whose channels cannot be removed safely, each with the reason.

    Args:
        model: the dense network; left as it was.
        slices: where it is cut.
        example: one batch of its input.
        groups: channels of each, by name.
    """
    rng = np.random.default_rng(0)
    kept = {
        name: sorted(rng.choice(n, max(1, round(n * _KEPT)), replace=False).tolist())
        for name, n in groups.items()
    }
    # zeros would hide what a layer does to its input
    image = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    return _Comparison(randomize_zero_scales(model), slices, image).search(kept) if kept else {}


def randomize_zero_scales(model: nn.Module) -> nn.Module:
    """Copies a network so that no scale is (nearly) zero throughout.

    They begin so in ConvNeXt's blocks, and in the last norm of many residual branches.
    """
    model = copy_network(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("bias") and value.abs().max() < _ZERO:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


Answers = dict[str, torch.Tensor]


class _Comparison:
    """Compares networks with fewer channels with masked ones.

    Args:
        model: the dense network; changed.
        slices: where it is cut.
        image: one batch of its input.
    """

    def __init__(self, model: nn.Module, slices: ChannelSlices, image: torch.Tensor) -> None:
        self._slices = slices
        self._model, self._image = model.double().eval(), image.double()
        try:
            self._dense = _answers(self._model, self._image)
        except Exception:  # a forward that insists on single precision raises what it will
            self._model, self._image = model.float(), image.float()
            self._dense = _answers(self._model, self._image)

    def search(self, kept: Mapping[str, list[int]]) -> dict[str, str]:
        """The groups at fault, each with the reason."""
        reason = self._difference(kept)
        names = list(kept)
        if reason is None or len(names) == 1:
            return {} if reason is None else {names[0]: reason}
        middle = len(names) // 2
        reasons: dict[str, str] = {}
        for half in (names[:middle], names[middle:]):
            reasons |= self.search({name: kept[name] for name in half})
        return reasons or self._at_fault_together(kept)

    def _at_fault_together(self, kept: Mapping[str, list[int]]) -> dict[str, str]:
        """The groups at fault where each half is sound by itself: those that spoil what is so."""
        names = list(kept)
        sound = {name: kept[name] for name in names[: len(names) // 2]}
        reasons = {}
        for name in names[len(names) // 2 :]:
            more = {**sound, name: kept[name]}
            reason = self._difference(more)
            if reason is None:
                sound = more
            else:
                reasons[name] = reason
        return reasons

    def _difference(self, kept: Mapping[str, list[int]]) -> str | None:
        """Says why removing channels is not the same as masking them; None where it is."""
        try:
            with self._slices.pruned_for_now(self._model, kept):
                pruned = _answers(self._model, self._image)
            with self._slices.masked_for_now(self._model, kept):
                masked = _answers(self._model, self._image)
        # torch raises whatever an unsupported structure provokes
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            return f"removing channels fails: {type(error).__name__}: {reason}"
        by_change, by_value = _TOLERANCES[self._image.dtype]
        for name, expected in masked.items():
            answer = pruned.get(name)
            if answer is None or answer.shape != expected.shape:
                continue
            difference = _largest(answer - expected)
            change = _largest(expected - self._dense[name])
            if not difference <= by_change * change + by_value * _largest(expected):
                return (
                    f"removing channels is not masking them (outputs differ by {difference:.2g}, "
                    f"where the masks change them by {change:.2g})"
                )
        return None


def _answers(model: nn.Module, image: torch.Tensor) -> Answers:
    """What a network answers, and what its layers with weights write, by their calls."""
    answers: Answers = {}
    with torch.no_grad(), _recorded(model, answers):
        output = model(image)
    for at, tensor in enumerate(tensors_in(output, torch.Tensor)):
        answers[f"output {at}"] = tensor
    return answers


@contextmanager
def _recorded(model: nn.Module, answers: Answers) -> Iterator[None]:
    """Keeps what the layers of a network write."""

    def record(name: str, output: torch.Tensor) -> None:
        answers[f"{len(answers)} {name}"] = output

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
