"""Networks by name: packaged ones, torchvision's, timm's, or the user's own function.

`resnet8`, `torchvision:resnet18`, `timm:mobilenetv3_small_100`, `mynet.py:build`,
`mypackage.nets:build`. Nothing here downloads anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cprune_rl.core.user_function import is_factory, load_factory
from cprune_rl.errors import ConfigError, ModelError, UnknownNameError
from cprune_rl.models.zoo import MODELS

__all__ = ["build_model", "check_model_name", "check_output"]


def check_model_name(name: str) -> None:
    """Fails early on a name that no network can have; imports nothing.

    Raises:
        UnknownNameError: it is neither packaged nor a library's nor `file.py:function`.
    """
    library, _, inner = name.partition(":")
    is_of_library = bool(inner) and library in _LIBRARIES
    if name in MODELS or is_factory(name) or is_of_library:
        return
    libraries = [f"{library}:NAME" for library in _LIBRARIES]
    raise UnknownNameError("model", name, [*MODELS, *libraries, "file.py:function"])


def build_model(name: str, n_classes: int, seed: int = 0) -> nn.Module:
    """Builds a network with weights drawn from a seed.

    Args:
        name: `resnet8`, `torchvision:NAME`, `timm:NAME` or `file.py:function`.
        n_classes: number of logits. A user's function that takes an argument gets it; one that
            takes none must give as many.
        seed: of the weights.

    Raises:
        UnknownNameError: no network has that name; the message lists what there is.
        ConfigError: a library is not installed, or the user's function cannot be imported.
        ModelError: building it fails, or it gives no `torch.nn.Module`.
    """
    check_model_name(name)
    library, _, inner = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MODELS:
            return MODELS[name].build(n_classes)
        if library in _LIBRARIES:
            return _LIBRARIES[library](inner, n_classes)
        return _user_model(name, n_classes)


def check_output(model: nn.Module, example: torch.Tensor, n_classes: int, name: str) -> None:
    """Runs a network once and checks that it gives one logit for each class.

    Args:
        model: left in evaluation mode.
        example: one image as a batch.
        n_classes: classes of its data.
        name: how errors call the network.

    Raises:
        ModelError: it does not take these images, or gives something else than `(1, n_classes)`
            logits.
    """
    shape = tuple(example.shape)
    try:
        with torch.no_grad():
            output = model.eval()(example)
    except Exception as error:  # whatever the user's network raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{name} does not take images {shape}: {reason}") from error
    given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if given != (1, n_classes):
        raise ModelError(
            f"{name} gives {given} for one image {shape}; its data have {n_classes} classes, "
            f"so it must give (1, {n_classes})"
        )


def _user_model(name: str, n_classes: int) -> nn.Module:
    factory = load_factory("model", name)
    takes_argument = any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in inspect.signature(factory).parameters.values()
    )
    try:
        model = factory(n_classes) if takes_argument else factory()
    except Exception as error:  # the user's own function raises anything
        raise ModelError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} gives {type(model).__name__}; expected a torch.nn.Module")
    return model


def _torchvision(name: str, n_classes: int) -> nn.Module:
    models = _import_torchvision().models
    _check_listed("torchvision", name, models.list_models(module=models))
    model: nn.Module = models.get_model(name, weights=None, num_classes=n_classes)
    return model


def _timm(name: str, n_classes: int) -> nn.Module:
    _import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"timm:{name} needs timm: pip install 'cprune-rl[timm]' ({error})"
        ) from error
    _check_listed("timm", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=n_classes)
    return model


def _check_listed(library: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UnknownNameError("model", f"{library}:{name}", [f"{library}:{n}" for n in names])


def _import_torchvision() -> Any:
    """Imports torchvision, also where its wheel was built for CUDA and torch was not.

    Its import fails then for lack of two detection operators, which no classifier uses. They are
    declared here.
    """
    try:
        import torchvision
    except ImportError as error:
        raise ConfigError(
            f"this network needs torchvision: pip install 'cprune-rl[torchvision]' ({error})"
        ) from error
    except RuntimeError:
        for operator in ("nms", "qnms"):
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
        import torchvision
    return torchvision


_declared: list[Any] = []
"""Keeps the libraries that declare operators: an operator lives as long as its library."""

_LIBRARIES: dict[str, Callable[[str, int], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}
