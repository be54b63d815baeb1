"""Data sets by name: `contours:hard`, `cifar10:DIR`, `imagefolder:DIR?size=64`, `npz:FILE`,
`file.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprune_rl.accuracy.data.splits import NORMALISATIONS, ImageData, Normalisation
from cprune_rl.core.spec_string import SpecString
from cprune_rl.core.user_function import is_factory, load_factory
from cprune_rl.errors import ConfigError, DataError, UnknownNameError

__all__ = ["DATA_SETS", "DataKind", "DataSpec", "load_data", "parse_data"]

Advance = Callable[[int], None]


class DataSpec(SpecString):
    """A data set as the user names it: its kind is a key of `DATA_SETS`, or `file.py:function`."""

    @property
    def seed(self) -> int:
        """Of the split."""
        return self.whole("seed", 0)

    def normalisation(self, default: str = "unit") -> Normalisation:
        """What a network sees: by name, `normalise=imagenet`, or in figures,
        `mean=0.49,0.48,0.45&std=0.25,0.24,0.26`.

        Raises:
            ConfigError: the name is unknown, the figures are none, or both are given.
        """
        figures = [option for option in ("mean", "std") if option in self.options]
        if not figures:
            return NORMALISATIONS[self.among("normalise", default, NORMALISATIONS)]
        if len(figures) == 1 or "normalise" in self.options:
            raise self.error("give normalise=NAME, or mean= and std= together")
        mean, std = self.figures("mean"), self.figures("std")
        if min(std) <= 0:
            raise self.error(f"std={self.options['std']} must be above 0")
        return Normalisation(mean, std)

    def figures(self, option: str) -> tuple[float, ...]:
        """An option that is one or several numbers, divided by commas.

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

    def path(self, what: str) -> Path:
        """The argument as a path.

        Raises:
            ConfigError: there is none.
        """
        if not self.argument:
            raise ConfigError(f"data {self.name!r} names no {what}: {self.kind}:PATH")
        return Path(self.argument).expanduser()

    def whole(self, option: str, default: int, at_least: int = 0) -> int:
        """An option that is a whole number.

        Raises:
            ConfigError: it is none, or too small.
        """
        value = self.options.get(option, str(default))
        if not value.isdecimal() or int(value) < at_least:
            raise self.error(f"{option}={value} must be a whole number of at least {at_least}")
        return int(value)

    def among(self, option: str, default: str, known: Mapping[str, object]) -> str:
        """An option that is one of some words.

        Raises:
            ConfigError: it is another.
        """
        value = self.options.get(option, default)
        if value not in known:
            raise self.error(f"{option}={value}. Known: {', '.join(known)}.")
        return value


@dataclass(frozen=True)
class DataKind:
    """How data sets of one kind are read.

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


_ON_OR_OFF = {"on": True, "off": False}


def _contours(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    from cprune_rl.accuracy.data.generated import contours

    return contours(spec.name, spec.argument or "standard", fast)


def _digits(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    from cprune_rl.accuracy.data.generated import digits

    return digits(spec.name)


def _cifar10(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    from cprune_rl.accuracy.data.cifar10 import read_cifar10

    return read_cifar10(
        spec.path("folder"), spec.name, spec.normalisation("cifar10"), spec.seed, fast
    )


def _folder(spec: DataSpec, fast: bool, advance: Advance | None) -> ImageData:
    from cprune_rl.accuracy.data.image_folder import read_folder

    augmented = _ON_OR_OFF[spec.among("augment", "on", _ON_OR_OFF)]
    return read_folder(
        spec.path("folder"),
        spec.name,
        spec.whole("size", 64, 8),
        spec.normalisation(),
        spec.seed,
        fast,
        augmented,
        advance,
    )


def _npz(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    from cprune_rl.accuracy.data.npz import read_npz

    augmented = _ON_OR_OFF[spec.among("augment", "off", _ON_OR_OFF)]
    return read_npz(spec.path("file"), spec.name, spec.normalisation(), spec.seed, fast, augmented)


def _own(spec: DataSpec, fast: bool, _: Advance | None) -> ImageData:
    """What a user's function gives: `ImageData`, or images and labels as in an .npz."""
    from cprune_rl.accuracy.data.npz import checked_arrays
    from cprune_rl.accuracy.data.splits import split_images

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
            f"{spec.kind} gives {type(made).__name__}; expected a pair (x, y): uint8 images (n, channels, height, width) and labels (n,), or ImageData"
        )
    augmented = _ON_OR_OFF[spec.among("augment", "off", _ON_OR_OFF)]
    return split_images(
        spec.name,
        checked_arrays(*made, spec.kind),
        seed=spec.seed,
        fast=fast,
        normalisation=spec.normalisation(),
        is_augmented=augmented,
    )


_SEEN = ("normalise", "mean", "std")
_SPLIT_OPTIONS = ("seed", *_SEEN, "augment")
_OWN = DataKind(_own, "a function of yours that gives (x, y)", _SPLIT_OPTIONS, ())

DATA_SETS: dict[str, DataKind] = {
    "contours": DataKind(
        _contours,
        "drawn images, 10 classes; contours:easy and contours:hard too",
        (),
        ("easy", "standard", "hard"),
    ),
    "digits": DataKind(_digits, "scikit-learn's digits, for smoke tests", (), ()),
    "cifar10": DataKind(_cifar10, "cifar10:DIR, the published files", ("seed", *_SEEN)),
    "imagefolder": DataKind(
        _folder,
        "imagefolder:DIR?size=64, pictures in train/<class>/ and val/<class>/",
        ("size", *_SPLIT_OPTIONS),
    ),
    "npz": DataKind(_npz, "npz:FILE, with x (uint8 images) and y (labels)", _SPLIT_OPTIONS),
}
"""Kinds of data sets by name."""


def parse_data(name: str) -> DataSpec:
    """Reads a name without opening anything.

    Raises:
        UnknownNameError: no kind has that name.
        ConfigError: an argument is missing or superfluous, or an option is unknown.
    """
    spec = DataSpec.from_name("data", name)
    if spec.kind not in DATA_SETS and not is_factory(spec.kind):
        raise UnknownNameError("data", spec.kind, [*DATA_SETS, "file.py:function"])
    known = _kind(spec)
    spec.check_options(known.options)
    spec.normalisation()
    if known.presets is None:
        spec.path("file or folder")
    elif spec.argument and spec.argument not in known.presets:
        presets = ", ".join(known.presets) or "none"
        raise spec.error(f"{spec.argument!r} is none of its presets. Known: {presets}.")
    return spec


def load_data(name: str, fast: bool = False, advance: Advance | None = None) -> ImageData:
    """Opens a data set by name.

    Args:
        name: as `parse_data` reads it.
        fast: the smaller image set of `--fast`.
        advance: called with the number of images read so far, where that takes long.

    Raises:
        UnknownNameError: no kind has that name.
        ConfigError: an argument or an option is wrong.
        DataError: a file is missing or damaged.
    """
    spec = parse_data(name)
    return _kind(spec).load(spec, fast, advance)


def _kind(spec: DataSpec) -> DataKind:
    return DATA_SETS.get(spec.kind, _OWN)
