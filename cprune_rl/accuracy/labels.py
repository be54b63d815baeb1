"""Labels that a network gives, and tasks that are tried before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData, parse_data
from cprune_rl.accuracy.task import Classification
from cprune_rl.accuracy.training import answers, on_device
from cprune_rl.errors import ConfigError, DataError
from cprune_rl.models.weights import classes_of_weights

__all__ = ["check_task", "labelled_by_network", "n_answers"]

_N_IMAGES = 8  # that a task is tried on


def labelled_by_network(data: ImageData, model: nn.Module) -> ImageData:
    """Gives the images with a network's answers for labels, so that accuracy means agreement.

    Args:
        data: whose labels mean nothing.
        model: trained; left in evaluation mode.

    Raises:
        DataError: it gives every image the same label, so that nothing can be judged by it.
        ConfigError: the task cannot say what an output stands for.
    """
    labels = {name: answers(model, split) for name, split in data.splits.items()}
    train = labels["train"]
    if (train == train[0]).all():
        raise DataError(
            f"the network gives every training image of {data.name} the same label: its weights "
            "may expect pixels of another scale (--data '...?normalise=NAME' or "
            "'...?mean=...&std=...'), or other pictures"
        )
    is_classes = isinstance(data.task, Classification)
    n_classes = _n_outputs(data, model) if is_classes or train.ndim == 1 else int(train.shape[1])
    return data.labelled_by(labels, n_classes)


@torch.no_grad()
def _n_outputs(data: ImageData, model: nn.Module) -> int:
    with on_device(model.eval(), data.train.device):
        return int(model(data.train.batch(slice(0, 1))).shape[1])


def n_answers(
    data_name: str,
    weights: Path | None,
    build: Callable[[int], nn.Module],
    example: torch.Tensor,
) -> int:
    """Gives the number of classes of a network whose images have no labels.

    Args:
        data_name: as `--data` takes it; its option `classes` comes first.
        weights: file of them, whose last layer says it; None where the network has them.
        build: gives the network for a number of classes.
        example: one image as a batch.

    Raises:
        CPruneError: the network cannot be built or run, or the weights cannot be read.
    """
    stated = parse_data(data_name).integer("classes", 0)
    if stated:
        return stated
    if weights is not None:
        found = classes_of_weights(weights, build)
        if found:
            return found
    with torch.no_grad():
        return int(build(2).eval()(example).shape[-1])


def check_task(model: nn.Module, data: ImageData) -> None:
    """Tries a task of the user's on a few images, as training and judging will.

    Args:
        model: left in evaluation mode, without gradients.
        data: with the task.

    Raises:
        ConfigError: the loss or the metric fails, has a wrong shape, is not finite, or does not
            depend on the output.
    """
    split = data.train
    n_images = min(_N_IMAGES, len(split))
    with on_device(model.eval(), split.device):
        with torch.no_grad():
            output = model(split.batch(slice(0, n_images))).float()
        target = split.targets[:n_images]
        split.task.correct(output, target)
        output.requires_grad_()
        loss = split.task.loss(output, target)
    if not loss.requires_grad:
        raise ConfigError(
            "the task's loss does not depend on the output by operations of torch, so nothing can "
            "be learnt: compute it from the tensor `output`, without item(), detach() or numpy()"
        )
    _check_gradient(loss, output)


def _check_gradient(loss: torch.Tensor, output: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, output)
    if not bool(torch.isfinite(gradient).all()):
        raise ConfigError(
            "the gradient of the task's loss is not finite: look at a logarithm, a root or a "
            "division in it"
        )
