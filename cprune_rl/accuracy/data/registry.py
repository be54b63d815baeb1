"""Data sets by name.

`contours:hard`, `cifar10:DIR`, `imagefolder:DIR?size=64`, `npz:FILE`, `file.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprune_rl.accuracy.data.cifar10 import read_cifar10
from cprune_rl.accuracy.data.generated import DIFFICULTIES, contours, digits
from cprune_rl.accuracy.data.image_folder import read_image_folder
from cprune_rl.accuracy.data.npz import checked_arrays, read_npz
from cprune_rl.accuracy.data.splits import (
    NORMALISATIONS,
    ImageData,
    Normalisation,
    SplitSettings,
    split_images,
)
from cprune_rl.core.spec_string import SpecString
from cprune_rl.core.user_function import is_factory, load_factory
from cprune_rl.errors import ConfigError, DataError, UnknownNameError

__all__ = ["DATA_SETS", "DataKind", "DataSpec", "load_data", "parse_data"]

Advance = Callable[[int], None]
_ON_OR_OFF = {"on": True, "off": False}


class DataSpec(SpecString):
    """Reads a data set's name: its kind is a key of `DATA_SETS`, or `file.py:function`."""

    def split_settings(
        self, fast: bool, normalise: str = "unit", augment: str = "off"
    ) -> SplitSettings:
        """How its images are split and shown.

        Args:
            fast: fewer images to train and search on.
            normalise: the default, a key of `NORMALISATIONS`.
            augment: the default, `on` or `off`.

        Raises:
            ConfigError: an option has a wrong value.
        """
        return SplitSettings(
            name=self.name,
            normalisation=self.normalisation(normalise),
            is_augmented=_ON_OR_OFF[self.choice("augment", augment, _ON_OR_OFF)],
            seed=self.integer("seed", 0),
            fast=fast,
        )

    def normalisation(self, default: str = "unit") -> Normalisation:
        """How pixels are normalised: by name, or in numbers.

        `normalise=imagenet`, or `mean=0.49,0.48,0.45&std=0.25,0.24,0.26`.

        Raises:
            ConfigError: the name is unknown, the numbers are none, or both are given.
        """
        given = [option for option in ("mean", "std") if option in self.options]
        if not given:
            return NORMALISATIONS[self.choice("normalise", default, NORMALISATIONS)]
        if len(given) == 1 or "normalise" in self.options:
            raise self.error("give normalise=NAME, or mean= and std= together")
        normalisation = Normalisation(self.numbers("mean"), self.numbers("std"))
        if min(normalisation.std) <= 0:
            raise self.error(f"std={self.options['std']} must be above 0")
        return normalisation

    def numbers(self, option: str) -> tuple[float, ...]:
        """An option that is one number, or several divided by commas.

        Raises:
            ConfigError: it is something else.
        """
        try:
            return tuple(float(value) for value in self.options[option].split(","))
        except ValueError:
            raise self.error(
                f"{option}={self.options[option]} must be a number, "
                "or one for each channel, divided by commas"
            ) from None

    def integer(self, option: str, default: int, at_least: int = 0) -> int:
        """An option that is a whole number.

        Raises:
            ConfigError: it is none, or too small.
        """
        value = self.options.get(option, str(default))
        if not value.isdecimal() or int(value) < at_least:
            raise self.error(f"{option}={value} must be a whole number of at least {at_least}")
        return int(value)

    def choice(self, option: str, default: str, allowed: Mapping[str, object]) -> str:
        """An option that is one of some words.

        Raises:
            ConfigError: it is another.
        """
        value = self.options.get(option, default)
        if value not in allowed:
            raise self.error(f"{option}={value}. Known: {', '.join(allowed)}.")
        return value

    def path(self, what: str) -> Path:
        """The argument as a path.

        Args:
            what: is missing where there is no argument, for the error.

        Raises:
            ConfigError: there is none.
        """
        if not self.argument:
            raise ConfigError(f"data {self.name!r} names no {what}: {self.kind}:PATH")
        return Path(self.argument).expanduser()


@dataclass(frozen=True, kw_only=True)
class DataKind:
    """Says how data sets of one kind are read.

    Attributes:
        load: `(spec, fast, advance) -> data`.
        summary: for `--help` and errors.
        options: that it takes.
        presets: what the argument may be; None where it is a path, empty where there is none.
    """

    load: Callable[[DataSpec, bool, Advance | None], ImageData]
    summary: str
    options: tuple[str, ...] = ()
    presets: tuple[str, ...] | None = None


def parse_data(name: str) -> DataSpec:
    """Reads a name without opening anything.

    Raises:
        UnknownNameError: no kind has that name.
        ConfigError: an argument is missing or superfluous, or an option is unknown.
    """
    spec = DataSpec.from_name("data", name)
    if spec.kind not in DATA_SETS and not is_factory(spec.kind):
        raise UnknownNameError("data", spec.kind, [*DATA_SETS, "file.py:function"])
    kind = _kind(spec)
    spec.check_options(kind.options)
    spec.normalisation()
    if kind.presets is None:
        spec.path("file or folder")
    elif spec.argument and spec.argument not in kind.presets:
        presets = ", ".join(kind.presets) or "none"
        raise spec.error(f"{spec.argument!r} is none of its presets. Known: {presets}.")
    return spec


def load_data(name: str, fast: bool = False, advance: Advance | None = None) -> ImageData:
    """Opens a data set by name.

    Args:
        name: as `parse_data` reads it.
        fast: fewer images to train and search on.
        advance: called with the number of images read so far, where that takes long.

    Raises:
        UnknownNameError: no kind has that name.
        ConfigError: an argument or an option is wrong.
        DataError: a file is missing or damaged.
    """
    spec = parse_data(name)
    return _kind(spec).load(spec, fast, advance)


def _kind(spec: DataSpec) -> DataKind:
    return DATA_SETS.get(spec.kind, _USER_FUNCTION)


def _contours(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    return contours(spec.name, spec.argument or "standard", fast)


def _digits(spec: DataSpec, _fast: bool, _: Advance | None) -> ImageData:
    return digits(spec.name)


def _cifar10(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    settings = spec.split_settings(fast, normalise="cifar10", augment="on")
    return read_cifar10(spec.path("folder"), settings)


def _image_folder(spec: DataSpec, fast: bool, advance: Advance | None) -> ImageData:
    settings = spec.split_settings(fast, augment="on")
    size_px = spec.integer("size", 64, at_least=8)
    return read_image_folder(spec.path("folder"), settings, size_px, advance=advance)


def _npz(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    return read_npz(spec.path("file"), spec.split_settings(fast))


def _user_function(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    """Calls a user's function for `ImageData`, or for images and labels as in an .npz."""
    try:
        made = load_factory("data", spec.kind)()
    except ConfigError:
        raise
    except Exception as error:  # the user's own function raises anything
        raise DataError(f"{spec.kind} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, ImageData):
        return made
    if not isinstance(made, tuple) or len(made) != 2:
        raise DataError(
            f"{spec.kind} gives {type(made).__name__}; expected a pair (x, y): uint8 images "
            "(n, channels, height, width) and labels (n,), or ImageData"
        )
    return split_images(checked_arrays(*made, spec.kind), spec.split_settings(fast))


_NORMALISATION_OPTIONS = ("normalise", "mean", "std")
_SPLIT_OPTIONS = ("seed", *_NORMALISATION_OPTIONS, "augment")

DATA_SETS: dict[str, DataKind] = {
    "contours": DataKind(
        load=_contours,
        summary="drawn images, 10 classes; contours:easy and contours:hard too",
        presets=tuple(DIFFICULTIES),
    ),
    "digits": DataKind(load=_digits, summary="scikit-learn's digits, for smoke tests", presets=()),
    "cifar10": DataKind(
        load=_cifar10,
        summary="cifar10:DIR, the published files",
        options=("seed", *_NORMALISATION_OPTIONS),
    ),
    "imagefolder": DataKind(
        load=_image_folder,
        summary="imagefolder:DIR?size=64, pictures in train/<class>/ and val/<class>/",
        options=("size", *_SPLIT_OPTIONS),
    ),
    "npz": DataKind(
        load=_npz,
        summary="npz:FILE, with x (uint8 images) and y (labels)",
        options=_SPLIT_OPTIONS,
    ),
}
"""Kinds of data sets by name."""

_USER_FUNCTION = DataKind(
    load=_user_function,
    summary="a function of yours that gives (x, y)",
    options=_SPLIT_OPTIONS,
    presets=(),
)
