"""Networks by name: packaged ones, torchvision's, timm's, or a function of one's own;

and their weights from a file.

`resnet8`, `torchvision:resnet18`, `timm:mobilenetv3_small_100`, `mynet.py:build`,
`mypackage.nets:build`.
Called by the job; nothing here downloads anything.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cprune_rl.core.user_function import is_factory, load_factory
from cprune_rl.errors import ConfigError, DataError, ModelError, UnknownNameError
from cprune_rl.models.zoo import MODELS

__all__ = ["build_model", "check_model_name", "check_output", "load_weights"]

_N_SHOWN = 5  # names of weights that do not fit


def check_model_name(name: str) -> None:
    """Fails early on a name that no network can have; imports nothing.

    Raises:
        UnknownNameError: it is neither packaged nor a library's nor `file.py:function`.
    """
    library, colon, inner = name.partition(":")
    if (
        name not in MODELS
        and not is_factory(name)
        and not (colon and inner and library in _LIBRARIES)
    ):
        raise UnknownNameError(
            "model",
            name,
            [*MODELS, *(f"{library}:NAME" for library in _LIBRARIES), "file.py:function"],
        )


def build_model(name: str, n_classes: int, seed: int = 0) -> nn.Module:
    """Builds a network with weights drawn from a seed.

    Args:
        name: see the module.
        n_classes: logits that it gives. A function of one's own that takes an argument gets it; one
            that takes none must give as many.
        seed: of the weights.

    Raises:
        UnknownNameError: no network has that name; the message lists what there is.
        ConfigError: a library is not installed, or a function of one's own cannot be had.
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
        return _own(name, n_classes)


def check_output(model: nn.Module, example: torch.Tensor, n_classes: int, name: str) -> None:
    """Runs a network once.

    Args:
        model: in evaluation mode afterwards.
        example: one image as a batch.
        n_classes: that its data have.
        name: of the network.

    Raises:
        ModelError: it does not take these images, or gives something else than `(1, n_classes)`
            logits.
    """
    shape = tuple(example.shape)
    try:
        with torch.no_grad():
            out = model.eval()(example)
    except Exception as error:  # whatever the user's network raises
        raise ModelError(
            f"{name} does not take images {shape}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if found != (1, n_classes):
        raise ModelError(
            f"{name} gives {found} for one image {shape}; its data have {n_classes} classes, so it must give (1, {n_classes})"
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state_dict in place:

    `.safetensors`, or what `torch.save` wrote, of which no code is run.

    A state_dict under the key `state_dict`, `model_state_dict` or `model` of a checkpoint is found;
    `module.` and `_orig_mod.` before
    every name, which DataParallel and torch.compile put there, are left out; counters of batch
    norms may be missing.

    Args:
        model: the network.
        path: the file.

    Raises:
        DataError: the file is missing or damaged, or holds something else.
        ModelError: its weights are not those of this network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns of pickles that it refuses in the next line
            values: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except (
        OSError,
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as weights: {reason}. Save them with torch.save(model.state_dict(), FILE) or safetensors."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    if (
        not isinstance(values, Mapping)
        or not values
        or not all(isinstance(v, torch.Tensor) for v in values.values())
    ):
        raise DataError(
            f"{path} holds no state_dict. Save the weights with torch.save(model.state_dict(), FILE) or safetensors."
        )
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in values):
            values = {name.removeprefix(prefix): value for name, value in values.items()}
    own = model.state_dict()
    values = {
        **{name: value for name, value in own.items() if name.endswith("num_batches_tracked")},
        **values,
    }
    problems = [
        f"{kind} {', '.join(sorted(names)[:_N_SHOWN])}{' and more' if len(names) > _N_SHOWN else ''}"
        for kind, names in _differences(own, values).items()
        if names
    ]
    if problems:
        raise ModelError(f"{path} does not fit the network: {'; '.join(problems)}")
    model.load_state_dict(dict(values))


def _differences(
    own: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> dict[str, set[str]]:
    shapes = {
        f"{n} ({tuple(values[n].shape)}, here {tuple(own[n].shape)})"
        for n in own.keys() & values.keys()
        if own[n].shape != values[n].shape
    }
    return {
        "it lacks": set(own) - set(values),
        "the network has no": set(values) - set(own),
        "other shapes:": shapes,
    }


def _own(name: str, n_classes: int) -> nn.Module:
    factory = load_factory("model", name)
    takes = [
        p
        for p in inspect.signature(factory).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    try:
        model = factory(n_classes) if takes else factory()
    except Exception as error:  # the user's own function raises anything
        raise ModelError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} gives {type(model).__name__}; expected a torch.nn.Module")
    return model


def _torchvision(name: str, n_classes: int) -> nn.Module:
    models = _import_torchvision().models
    if name not in models.list_models(module=models):
        raise UnknownNameError(
            "model",
            f"torchvision:{name}",
            [f"torchvision:{n}" for n in models.list_models(module=models)],
        )
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
    if name not in timm.list_models():
        raise UnknownNameError("model", f"timm:{name}", [f"timm:{n}" for n in timm.list_models()])
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=n_classes)
    return model


def _import_torchvision() -> Any:
    """torchvision, also where its wheel was built for CUDA and torch was not:

    two detection operators, which no classifier uses, are declared then.
    """
    try:
        import torchvision
    except ImportError as error:
        raise ConfigError(
            f"this network needs torchvision: pip install 'cprune-rl[torchvision]' ({error})"
        ) from error
    except RuntimeError:
        for operator in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            _declared.append(torch.library.Library("torchvision", "FRAGMENT"))  # type: ignore[no-untyped-call]  # torch's own
            _declared[-1].define(operator)
        import torchvision
    return torchvision


_declared: list[Any] = []  # an operator lives as long as the library that declared it
_LIBRARIES: dict[str, Callable[[str, int], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}
