"""Says whether the pixels that a network sees have the scale that its weights expect.

Nothing in a file of weights says which scale that is. So the network is tried at the usual ones.
Nothing is scaled here: `data/image_data.py` divides by 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from cprune_rl.accuracy.data import NORMALISATIONS, ImageData, Normalisation, Split
from cprune_rl.accuracy.data.image_arrays import SelectedRows
from cprune_rl.accuracy.final_gate import difference_interval
from cprune_rl.accuracy.training import correct_predictions

__all__ = ["ScaleReport", "describe_scale"]

_AS_GIVEN = "as given"
_BYTES = Normalisation((0.0,), (1 / 255,))  # pixels from 0 to 255
_CONFIDENCE = 0.999  # that another scale is better: several are tried
_LEAST_GAIN = 0.05  # of accuracy: what other pixels than those of the training may cost


@dataclass(frozen=True, kw_only=True)
class ScaleReport:
    """What a network gets right at each scale.

    Attributes:
        shown: mean and deviation that the images are shown with.
        best: name of the scale that it gets most right at; "as given" for that of `shown`.
        accuracies: by name of the scale, in [0, 1].
        n_images: that it was tried on.
        message: what to do where another scale is better beyond doubt; empty where none is.
    """

    shown: Normalisation
    best: str
    accuracies: Mapping[str, float]
    n_images: int
    message: str


def describe_scale(model: nn.Module, data: ImageData, n_images: int = 512) -> ScaleReport:
    """Tries a network with its trained weights at the scales of pixels that are in use.

    Args:
        model: left in evaluation mode.
        data: with given labels: those that the network gave itself say nothing. Images that are
            no bytes have one scale, their own.
        n_images: of the search, at most.
    """
    split = _first_images(data.search, n_images)
    shown = split.normalisation
    scales = {_AS_GIVEN: shown}
    if split.images.dtype == np.uint8 and not data.is_agreement:
        scales |= {name: scale for name, scale in _usual_scales(data).items() if scale != shown}
    correct = {
        name: correct_predictions(model, replace(split, normalisation=scale))
        for name, scale in scales.items()
    }
    accuracies = {name: float(of_scale.mean()) for name, of_scale in correct.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    gain = difference_interval(correct[best], correct[_AS_GIVEN], _CONFIDENCE)
    message = ""
    if best != _AS_GIVEN and gain.low > 0 and gain.value >= _LEAST_GAIN:
        message = (
            f"with pixels of another scale the network gets {accuracies[best]:.1%} of "
            f"{len(split):,} images right, and {accuracies[_AS_GIVEN]:.1%} as they are shown now "
            f"(mean {shown.mean}, std {shown.std}): name it, --data '...?{_option(best)}'"
        )
    return ScaleReport(
        shown=shown, best=best, accuracies=accuracies, n_images=len(split), message=message
    )


def _first_images(split: Split, n_images: int) -> Split:
    rows = np.arange(min(n_images, len(split)))
    return replace(split, images=SelectedRows(split.images, rows), labels=split.labels[rows])


def _usual_scales(data: ImageData) -> dict[str, Normalisation]:
    """Scales that fit the number of channels, by name."""
    n_channels = data.input_shape[1]
    return {
        name: scale
        for name, scale in {**NORMALISATIONS, "0 to 255": _BYTES}.items()
        if len(scale.mean) in (1, n_channels)
    }


def _option(name: str) -> str:
    return "mean=0&std=0.00392157" if name == "0 to 255" else f"normalise={name}"
