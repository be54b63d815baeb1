"""Networks by name: packaged ones, torchvision's, timm's, or the user's own function.

`resnet8`, `torchvision:resnet18`, `timm:mobilenetv3_small_100`, `mynet.py:build`,
`mypackage.nets:build`, `net.onnx`. Nothing here downloads anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from cprune_rl.core.user_function import is_factory
from cprune_rl.errors import ConfigError, ModelError, UnknownNameError
from cprune_rl.models.onnx_import import is_onnx, load_onnx
from cprune_rl.models.torchvision_import import import_torchvision, load_user_function
from cprune_rl.models.wrappers import unwrap
from cprune_rl.models.zoo import MODELS

__all__ = [
    "build_model",
    "check_model_name",
    "check_output",
    "has_own_weights",
    "is_object",
    "object_name",
]

_COLOUR = 3  # channels
_CHANNELS = "n_channels"  # parameter of a user's function
_OBJECT = "object:"


def object_name(model: nn.Module) -> str:
    """Names a network that was given as a module, `object:LeNet`: no code builds it again."""
    return f"{_OBJECT}{type(model).__name__}"


def is_object(name: str) -> bool:
    """Whether a name stands for a network that was given as a module."""
    return name.startswith(_OBJECT)


def check_model_name(name: str) -> None:
    """Fails early on a name that no network can have; imports nothing.

    Raises:
        UnknownNameError: it is neither packaged nor a library's, and neither `file.py:function`
            nor an ONNX file.
    """
    library, _, inner = name.partition(":")
    is_of_library = bool(inner) and library in _LIBRARIES
    is_file = is_factory(name) or is_onnx(name)
    if name in MODELS or is_file or is_of_library or is_object(name):
        return
    libraries = [f"{library}:NAME" for library in _LIBRARIES]
    raise UnknownNameError("model", name, [*MODELS, *libraries, "file.py:function", "file.onnx"])


def has_own_weights(name: str) -> bool:
    """Whether a network comes with trained weights."""
    return is_onnx(name)


def build_model(name: str, n_classes: int, seed: int = 0, n_channels: int = 3) -> nn.Module:
    """Builds a network with weights drawn from a seed, or with those of its file.

    Args:
        name: `resnet8`, `torchvision:NAME`, `timm:NAME`, `file.py:function` or `file.onnx`.
        n_classes: number of logits. A user's function that takes an argument gets it; one that
            takes none must give as many.
        seed: of the weights.
        n_channels: of the images. Packaged networks and timm's take any; a user's function gets it
            where it has a parameter of that name.

    Raises:
        UnknownNameError: no network has that name; the message lists what there is.
        ConfigError: a library is not installed, or the user's function cannot be imported.
        DataError: an ONNX file is missing or damaged.
        ModelError: building it fails, or it gives no `torch.nn.Module`, or it was given as a
            module.
    """
    check_model_name(name)
    if is_onnx(name):
        return load_onnx(Path(name))
    if is_object(name):
        raise ModelError(
            f"{name} was given as a module in Python, and a run folder has no code of it: give it "
            "again, cprune_rl.prune(model, ..., resume=FOLDER) or cprune_rl.load(FOLDER)"
        )
    library, _, inner = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MODELS:
            return MODELS[name].build(n_classes, n_channels)
        if library in _LIBRARIES:
            return _LIBRARIES[library](inner, n_classes, n_channels)
        return _user_model(name, n_classes, n_channels)


def check_output(
    model: nn.Module, example: torch.Tensor, n_classes: int | None, name: str
) -> tuple[int, ...]:
    """Runs a network once and checks that it gives one logit for each class.

    Args:
        model: left in evaluation mode.
        example: one image as a batch.
        n_classes: classes of its data; None where the output may be of any shape.
        name: how errors call the network.

    Returns:
        The shape of its output.

    Raises:
        ModelError: it does not take these images, or gives something else than one tensor
            `(1, n_classes)`, or `(1, ...)` where there are no classes.
    """
    output = _output(model, example, name)
    given = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
    if n_classes is None and given[:1] == (1,):
        return given
    if n_classes is not None and given == (1, n_classes):
        return given
    raise ModelError(
        f"{name} gives {_described(output)} for one image {tuple(example.shape)}; "
        f"{_expected(n_classes)}"
    )


def _described(output: object) -> str:
    if isinstance(output, torch.Tensor):
        return str(tuple(output.shape))
    return f"a {type(output).__name__}"


def _expected(n_classes: int | None) -> str:
    if n_classes is None:
        return "it must give one tensor, with one row for each image"
    return f"its data have {n_classes} classes, so it must give one tensor (1, {n_classes})"


def _output(model: nn.Module, example: torch.Tensor, name: str) -> object:
    try:
        with torch.no_grad():
            return model.eval()(example)
    except Exception as error:  # whatever the user's network raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        shape = tuple(example.shape)
        raise ModelError(f"{name} does not take images {shape}: {reason}") from error


def _user_model(name: str, n_classes: int, n_channels: int) -> nn.Module:
    factory = load_user_function("model", name)
    parameters = inspect.signature(factory).parameters
    takes_argument = any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != _CHANNELS
        for p in parameters.values()
    )
    arguments = [n_classes] if takes_argument else []
    named = {_CHANNELS: n_channels} if _CHANNELS in parameters else {}
    try:
        model = factory(*arguments, **named)
    except Exception as error:  # the user's own function raises anything
        raise ModelError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} gives {type(model).__name__}; expected a torch.nn.Module")
    model = unwrap(model)
    for layer, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"{name} leaves {layer} without a shape: call the network once, on a blank image, "
                "before the function gives it"
            )
    return model.float()


def _torchvision(name: str, n_classes: int, n_channels: int) -> nn.Module:
    if n_channels != _COLOUR:
        raise ModelError(
            f"torchvision:{name} takes images of {_COLOUR} channels, and these have {n_channels}. "
            "timm's networks and packaged ones take any number."
        )
    models = import_torchvision().models
    _check_listed("torchvision", name, models.list_models(module=models))
    model: nn.Module = models.get_model(name, weights=None, num_classes=n_classes)
    return model


def _timm(name: str, n_classes: int, n_channels: int) -> nn.Module:
    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"timm:{name} needs timm: pip install 'cprune-rl[timm]' ({error})"
        ) from error
    _check_listed("timm", name, timm.list_models())
    channels = {} if n_channels == _COLOUR else {"in_chans": n_channels}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=n_classes, **channels)
    return model


def _check_listed(library: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UnknownNameError("model", f"{library}:{name}", [f"{library}:{n}" for n in names])


_LIBRARIES: dict[str, Callable[[str, int, int], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}
