"""Data sets by name.

`contours:hard`, `cifar10:DIR`, `fashion-mnist`, `imagefolder:DIR?size=64`, `npz:FILE`,
`file.py:function`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cprune_rl.accuracy.data.arrays import read_kept_images, read_kept_inputs
from cprune_rl.accuracy.data.checks import checked_data
from cprune_rl.accuracy.data.cifar10 import read_cifar10
from cprune_rl.accuracy.data.decoded_cache import Track
from cprune_rl.accuracy.data.fashion_mnist import DEFAULT_FOLDER, read_fashion_mnist
from cprune_rl.accuracy.data.generated import DIFFICULTIES, contours, digits
from cprune_rl.accuracy.data.image_data import NORMALISATIONS, ImageData, Normalisation, Split
from cprune_rl.accuracy.data.image_folder import read_image_folder
from cprune_rl.accuracy.data.npz import checked_arrays, read_npz
from cprune_rl.accuracy.data.splitting import SplitSettings, split_images
from cprune_rl.accuracy.task import Task
from cprune_rl.core.folders import expanded
from cprune_rl.core.spec_string import SpecString
from cprune_rl.core.user_function import is_factory
from cprune_rl.errors import ConfigError, DataError, UnknownNameError
from cprune_rl.models.torchvision_import import load_user_function

__all__ = [
    "DATA_SETS",
    "LABELS",
    "DataKind",
    "DataSpec",
    "ReadSettings",
    "load_data",
    "load_inputs",
    "loop_name",
    "parse_data",
]

Advance = Callable[[int], None]
LABELS = ("given", "teacher")
"""Where labels come from: the data set, or the dense network's answers."""
_ON_OR_OFF = {"on": True, "off": False}
_LEAST_SAMPLE = 50  # images: fewer cannot be split
_LOOP = "loop"  # option of images that a training loop of the user's goes with


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How much is read, and what the labels are.

    Attributes:
        is_fast: fewer images to train and search on.
        labels: one of `LABELS`.
        task: of the user's; None where each image has a class.
        track: told of what takes long.
    """

    is_fast: bool
    labels: str
    task: Task | None
    track: Track

    @property
    def has_labels(self) -> bool:
        """Whether the data set's labels mean anything."""
        return self.labels == "given"


class DataSpec(SpecString):
    """Reads a data set's name: its kind is a key of `DATA_SETS`, or `file.py:function`."""

    @property
    def known_options(self) -> tuple[str, ...]:
        """Options that its kind takes."""
        return _kind(self).options

    def split_settings(
        self,
        read: ReadSettings,
        normalise: str = "unit",
        augment: str = "off",
        stratify: str = "on",
    ) -> SplitSettings:
        """How its images are split and shown.

        Args:
            read: how much is read, and what the labels are.
            normalise: the default, a key of `NORMALISATIONS`.
            augment: the default, `on` or `off`.
            stratify: likewise; version 0.2 never did.

        Raises:
            ConfigError: an option has a wrong value.
        """
        n_images = None
        if "train" in self.options:
            n_images = self.integer("train", 0, at_least=_LEAST_SAMPLE)
        return SplitSettings(
            name=self.name,
            normalisation=self.normalisation(normalise),
            is_augmented=_ON_OR_OFF[self.choice("augment", augment, _ON_OR_OFF)],
            seed=self.integer("seed", 0),
            fast=read.is_fast,
            is_stratified=_ON_OR_OFF[self.choice("stratify", stratify, _ON_OR_OFF)],
            n_images=n_images,
            has_labels=read.has_labels,
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
        """The argument as a path, or where its kind is found without one.

        Args:
            what: is missing where there is no argument, for the error.

        Raises:
            ConfigError: there is none.
        """
        argument = self.argument or _kind(self).default_path
        if not argument:
            raise ConfigError(f"data {self.name!r} names no {what}: {self.kind}:PATH")
        return expanded(argument)


@dataclass(frozen=True, kw_only=True)
class DataKind:
    """Says how data sets of one kind are read.

    Attributes:
        load: `(spec, fast, advance) -> data`, of a kind that has labels and classes.
        read: `(spec, settings) -> data`, in the place of `load`.
        summary: for `--help` and errors.
        options: that it takes.
        presets: what the argument may be; None where it is a path, empty where there is none.
        default_path: taken where the name has no path; empty where there must be one.
        says_progress: whether `load` tells its progress itself.
    """

    summary: str
    load: Callable[[DataSpec, bool, Advance | None], ImageData] | None = None
    read: Callable[[DataSpec, ReadSettings], ImageData] | None = None
    options: tuple[str, ...] = ()
    presets: tuple[str, ...] | None = None
    default_path: str = ""
    says_progress: bool = False


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


def load_data(
    name: str,
    fast: bool = False,
    advance: Advance | None = None,
    *,
    labels: str = "given",
    task: Task | None = None,
    track: Track | None = None,
) -> ImageData:
    """Opens a data set by name.

    Args:
        name: as `parse_data` reads it.
        fast: fewer images to train and search on.
        advance: called with the number of pictures decoded so far, where they have to be.
        labels: one of `LABELS`; for "teacher", labels are blank until `ImageData.labelled_by`.
        task: of the user's: labels may then be targets `(n, k)`.
        track: told of what takes long, instead of `advance`.

    Raises:
        UnknownNameError: no kind has that name.
        ConfigError: an argument or an option is wrong.
        DataError: a file is missing or damaged, or there is one class alone.
    """
    spec = parse_data(name)
    kind = _kind(spec)

    @contextlib.contextmanager
    def track_alone(_what: str, _total: int | None) -> Iterator[Advance]:
        yield advance or (lambda _: None)

    settings = ReadSettings(
        is_fast=fast,
        labels=labels,
        task=task,
        track=track or track_alone,
    )
    if kind.says_progress:
        data = _read(kind, spec, settings)
    else:
        with settings.track(f"Reading the images of {name}", None) as track_one:
            data = _read(kind, spec, settings, track_one)
    if task is not None:
        data = data.with_task(task)
    if not settings.has_labels:
        return replace(data, n_classes=0, class_names=())
    return checked_data(data)


def loop_name(name: str) -> str:
    """Give the name of the user's training loop that goes with images; empty where there is none.

    Args:
        name: of the images.

    Raises:
        CPruneError: see `parse_data`.
    """
    return parse_data(name).options.get(_LOOP, "")


def load_inputs(name: str) -> Split:
    """Open images that go with a training loop of the user's, all together and without labels.

    Args:
        name: `arrays:HASH?loop=NAME`.

    Raises:
        CPruneError: it is the name of other images, or they are not there.
    """
    spec = parse_data(name)
    settings = SplitSettings(name=spec.name, normalisation=spec.normalisation())
    return read_kept_inputs(spec.argument, settings)


def _read(
    kind: DataKind, spec: DataSpec, settings: ReadSettings, advance: Advance | None = None
) -> ImageData:
    if kind.read is not None:
        return kind.read(spec, settings)
    assert kind.load is not None, "a kind has one of both"
    return kind.load(spec, settings.is_fast, advance)


def _kind(spec: DataSpec) -> DataKind:
    return DATA_SETS.get(spec.kind, _USER_FUNCTION)


def _contours(spec: DataSpec, read: ReadSettings) -> ImageData:
    return contours(spec.name, spec.argument or "standard", read.is_fast)


def _digits(spec: DataSpec, _: ReadSettings) -> ImageData:
    return digits(spec.name)


def _cifar10(spec: DataSpec, read: ReadSettings) -> ImageData:
    # The published figures rest on splits that are not stratified. With 5,000 training images of
    # each class they differ little from those that are.
    settings = spec.split_settings(read, normalise="cifar10", augment="on", stratify="off")
    return read_cifar10(spec.path("folder"), settings)


def _fashion_mnist(spec: DataSpec, read: ReadSettings) -> ImageData:
    settings = spec.split_settings(read, normalise="fashion-mnist", augment="on")
    return read_fashion_mnist(spec.path("folder"), settings)


def _image_folder(spec: DataSpec, read: ReadSettings) -> ImageData:
    settings = spec.split_settings(read, augment="on")
    size_px = spec.integer("size", 64, at_least=8)
    return read_image_folder(spec.path("folder"), settings, size_px, read.track)


def _npz(spec: DataSpec, read: ReadSettings) -> ImageData:
    return read_npz(spec.path("file"), spec.split_settings(read), has_task=read.task is not None)


def _arrays(spec: DataSpec, read: ReadSettings) -> ImageData:
    if _LOOP in spec.options:
        raise spec.error(
            "its images have no labels, and functions that were given in Python train and judge: "
            "give them again, cprune_rl.Pruner(...).prune(resume=FOLDER)"
        )
    return read_kept_images(spec.argument, spec.split_settings(read))


def _user_function(spec: DataSpec, read: ReadSettings) -> ImageData:
    """Calls a user's function for `ImageData`, or for images and labels as in an .npz."""
    try:
        made = load_user_function("data", spec.kind)()
    except ConfigError:
        raise
    except Exception as error:  # the user's own function raises anything
        raise DataError(f"{spec.kind} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, ImageData):
        return made
    if not read.has_labels and isinstance(made, np.ndarray):
        made = (made, None)
    if not isinstance(made, tuple) or len(made) != 2:
        raise DataError(
            f"{spec.kind} gives {type(made).__name__}; expected a pair (x, y): uint8 images "
            "(n, channels, height, width) and labels (n,), or ImageData"
        )
    images, labels = made
    if not read.has_labels:
        labels = None
    labelled = checked_arrays(images, labels, spec.kind, has_task=read.task is not None)
    return split_images(labelled, spec.split_settings(read))


_NORMALISATION_OPTIONS = ("normalise", "mean", "std")
_PUBLISHED_OPTIONS = ("seed", "train", "stratify", *_NORMALISATION_OPTIONS)
_SPLIT_OPTIONS = (*_PUBLISHED_OPTIONS, "augment", "classes")

DATA_SETS: dict[str, DataKind] = {
    "contours": DataKind(
        read=_contours,
        summary="drawn images, 10 classes; contours:easy and contours:hard too",
        presets=tuple(DIFFICULTIES),
    ),
    "digits": DataKind(read=_digits, summary="scikit-learn's digits, for smoke tests", presets=()),
    "cifar10": DataKind(
        read=_cifar10,
        summary="cifar10:DIR, the published files",
        options=_PUBLISHED_OPTIONS,
    ),
    "fashion-mnist": DataKind(
        read=_fashion_mnist,
        summary="fashion-mnist or fashion-mnist:DIR, the published files; grey, 28 by 28",
        options=_PUBLISHED_OPTIONS,
        default_path=DEFAULT_FOLDER,
    ),
    "imagefolder": DataKind(
        read=_image_folder,
        summary="imagefolder:DIR?size=64, pictures in train/<class>/ and val/<class>/",
        options=("size", *_SPLIT_OPTIONS),
        says_progress=True,
    ),
    "npz": DataKind(
        read=_npz,
        summary="npz:FILE, with x (uint8 images) and y (labels)",
        options=_SPLIT_OPTIONS,
    ),
    "arrays": DataKind(
        read=_arrays,
        summary="arrays:HASH, images that were given to `cprune_rl.prune` in Python",
        options=(*_SPLIT_OPTIONS, _LOOP),
    ),
}
"""Kinds of data sets by name."""

_USER_FUNCTION = DataKind(
    read=_user_function,
    summary="a function of yours that gives (x, y)",
    options=_SPLIT_OPTIONS,
    presets=(),
)
