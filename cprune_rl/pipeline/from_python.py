"""Takes what a caller of the Python interface gives: a module, options and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cprune_rl.accuracy.data.arrays import GivenImages
from cprune_rl.agents.policies import DEFAULT
from cprune_rl.core.folders import use_cache_folder
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.setup import check_names

__all__ = ["checked_config", "given_module", "keep_given_images"]


def given_module(model: object) -> nn.Module | None:
    """Give a caller's network; None where it is a name.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str):
        return None
    hint = ""
    if isinstance(model, type) and issubclass(model, nn.Module):
        hint = f", such as {model.__name__}(...)"
    raise ConfigError(
        f"model is {type(model).__name__}: give a torch.nn.Module{hint}, "
        "or a name such as 'mynet.py:build'"
    )


def checked_config(asked: Mapping[str, Any], given: Given) -> RunConfig:
    """Give the options of a run, checked before any image is read.

    Args:
        asked: options by name; a None is not given.
        given: objects beside them.

    Raises:
        CPruneError: see `check_names`.
    """
    values = {name: _plain(value) for name, value in asked.items()}
    config = load_config(None, values, {"policy": DEFAULT})
    check_names(config, given)
    return config


def keep_given_images(images: GivenImages, config: RunConfig, progress: ProgressLog) -> RunConfig:
    """Keep a caller's images in the cache folder, and give the options that name them.

    Raises:
        CPruneError: see `GivenImages.keep`.
    """
    if config.cache is not None:
        use_cache_folder(config.cache)
    with progress.track("Reading the images", None) as advance:
        return config.model_copy(update={"data": images.keep(advance)})


def _plain(value: Any) -> Any:
    """Give an option as a file of options has it."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
