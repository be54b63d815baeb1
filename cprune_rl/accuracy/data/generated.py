"""Data sets that are computed, not read: `contours`, drawn, and scikit-learn's `digits`.

A class of `contours` is a closed outline (a Fourier series for the radius) times a fill texture.
Colour, pose, distractors, clutter and noise of each image are random. The set is hard enough that a
narrower network loses accuracy on it. It needs no download, and every seed gives other images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from cprune_rl.accuracy.data.image_data import ImageData, Split

__all__ = ["DIFFICULTIES", "ContourSettings", "contours", "digits", "draw_contours"]

FloatArray = NDArray[np.float32]

_N_ANGLES = 256
_CLASS_SEED = 7  # the classes themselves never change: only the images drawn from them do
_MIN_CLASS_DISTANCE = 0.085  # mean radius difference below which two contours look alike
_CHUNK = 512  # images that are painted at once
# Of train, search, gate and test. The gate's margin goes with one over the root of its images.
_SIZES = (20000, 10000, 50000, 10000)
_FAST_SIZES = (8000, 2000, 10000, 10000)
_DIGITS_BOUNDS = (0, 900, 1200, 1500, 1797)


@dataclass(frozen=True, kw_only=True)
class ContourSettings:
    """Says how hard the images are.

    Attributes:
        n_contours: outlines; classes are outlines x textures.
        n_textures: 1 plain, 2 adds stripes, 3 checks, 4 dots.
        size_px: height and width of an image.
        noise: standard deviation of pixel noise, in units of full scale.
        clutter: strength of the background, 0 to 1.
        rotation_rad: largest rotation of the shape either way.
    """

    n_contours: int = 5
    n_textures: int = 2
    size_px: int = 32
    noise: float = 0.05
    clutter: float = 0.2
    rotation_rad: float = 0.35

    @property
    def n_classes(self) -> int:
        return self.n_contours * self.n_textures


DIFFICULTIES = {
    "easy": ContourSettings(n_textures=1, noise=0.02, clutter=0.1, rotation_rad=0.2),
    "standard": ContourSettings(),
    "hard": ContourSettings(n_contours=8, n_textures=3, noise=0.08, clutter=0.3, rotation_rad=0.6),
}
"""Presets of `contours:NAME`; `standard` is the one that the documentation speaks of."""


def contours(name: str, difficulty: str = "standard", fast: bool = False) -> ImageData:
    """Draws the four splits.

    Args:
        name: of the data set.
        difficulty: a key of `DIFFICULTIES`.
        fast: fewer images to train and search on.
    """
    settings = DIFFICULTIES[difficulty]
    splits = [
        draw_contours(n_images, seed, settings)
        for seed, n_images in enumerate(_FAST_SIZES if fast else _SIZES, start=1)
    ]
    return _data(name, settings.n_classes, splits)


def digits(name: str) -> ImageData:
    """Gives 1,797 handwritten digits at 32 by 32.

    They are for smoke tests: any network gets nearly all of them right.
    """
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    enlarged = np.kron(pixels, np.ones((1, 4, 4), np.uint8))
    images = np.repeat(enlarged[:, None], 3, axis=1)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    parts = [order[start:end] for start, end in itertools.pairwise(_DIGITS_BOUNDS)]
    return _data(name, 10, [Split(images=images[part], labels=labels[part]) for part in parts])


def draw_contours(n_images: int, seed: int, settings: ContourSettings | None = None) -> Split:
    """Draws labelled images; the same seed gives the same images.

    Args:
        n_images: how many.
        seed: chooses labels, poses, colours and noise.
        settings: difficulty; None is `standard`.
    """
    settings = settings or DIFFICULTIES["standard"]
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, settings.n_classes, n_images)
    painter = _Painter(settings, _radius_profiles(settings.n_contours), rng)
    images = np.empty((n_images, 3, settings.size_px, settings.size_px), np.uint8)
    for start in range(0, n_images, _CHUNK):
        images[start : start + _CHUNK] = painter.paint(labels[start : start + _CHUNK])
    return Split(images=images, labels=labels.astype(np.int64))


def _data(name: str, n_classes: int, splits: Sequence[Split]) -> ImageData:
    train, search, gate, test = splits
    return ImageData(
        name=name, n_classes=n_classes, train=train, search=search, gate=gate, test=test
    )


def _radius_profiles(n_contours: int) -> FloatArray:
    """Draws the outlines as radius over angle, `(n_contours, 256)`.

    Each has two harmonics; all have the same area and differ from each other.
    """
    rng = np.random.default_rng(_CLASS_SEED)
    angle = np.linspace(0, 2 * np.pi, _N_ANGLES, endpoint=False)
    profiles: list[NDArray[np.float64]] = []
    while len(profiles) < n_contours:
        harmonics = rng.choice(np.arange(2, 7), size=2, replace=False)
        amplitudes = 0.30 * rng.uniform(0.6, 1.2, size=2)
        phases = rng.uniform(0, 2 * np.pi, size=2)
        radius = 1 + sum(
            a * np.cos(k * angle + p) for k, a, p in zip(harmonics, amplitudes, phases, strict=True)
        )
        radius = np.clip(radius, 0.3, None)
        radius = radius / np.sqrt((radius**2).mean())
        if all(_distance(radius, profile) > _MIN_CLASS_DISTANCE for profile in profiles):
            profiles.append(radius)
    return np.stack(profiles).astype(np.float32)


def _distance(radius: NDArray[np.float64], profile: NDArray[np.float64]) -> float:
    """Mean radius difference of two outlines, turned to where they are most alike."""
    shifts = range(0, _N_ANGLES, 4)
    return float(min(np.abs(np.roll(radius, shift) - profile).mean() for shift in shifts))


class _Painter:
    """Draws one chunk at a time; all arrays have the images first and the pixels last."""

    def __init__(
        self, settings: ContourSettings, profiles: FloatArray, rng: np.random.Generator
    ) -> None:
        self._settings = settings
        self._profiles = profiles
        self._rng = rng
        size = settings.size_px
        axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size / 2)
        x, y = np.meshgrid(axis, axis)
        self._x = x.ravel()[None]
        self._y = y.ravel()[None]

    def paint(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Paints one chunk of images, `(len(labels), 3, size, size)`."""
        n = len(labels)
        size = self._settings.size_px
        outline = labels // self._settings.n_textures
        texture_id = labels % self._settings.n_textures
        scale = self._uniform(n, 0.50, 0.70)
        rotation_rad = self._settings.rotation_rad
        mask, u, v = self._shape(outline, scale, shift=0.2, rotation_rad=rotation_rad, stretch=0.12)
        background = self._background(n)
        base = self._rng.uniform(0.15, 0.85, (n, 3)).astype(np.float32)
        direction = self._rng.standard_normal((n, 3)).astype(np.float32)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        fill = base + direction * self._uniform(n, 0.30, 0.60)[:, None]
        image = self._add_distractors(base[:, :, None] + background)
        texture = 0.28 * self._texture(texture_id, u, v)
        painted = fill[:, :, None] + direction[:, :, None] * texture[:, None] + background * 0.5
        image = image + mask[:, None] * (painted - image)
        image += self._settings.noise * self._rng.standard_normal(image.shape, np.float32)
        return np.asarray((np.clip(image, 0, 1) * 255).astype(np.uint8).reshape(n, 3, size, size))

    def _uniform(self, n: int, low: float, high: float) -> FloatArray:
        return self._rng.uniform(low, high, n).astype(np.float32)

    def _shape(
        self,
        outline: NDArray[np.int64],
        scale: FloatArray,
        *,
        shift: float,
        rotation_rad: float,
        stretch: float,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Moves, turns and stretches an outline for each image, at most so far either way.

        Args:
            outline: `(n,)` which one.
            scale: `(n,)` radius, in units of half the image.
            shift: in units of half the image.
            rotation_rad: angle.
            stretch: of the logarithm of width over height.

        Returns:
            Coverage in [0, 1] of each pixel, and the two coordinates of each pixel in the frame of
            the shape; all `(n, size * size)`.
        """
        n = len(outline)
        x = self._x - self._uniform(n, -shift, shift)[:, None]
        y = self._y - self._uniform(n, -shift, shift)[:, None]
        angle = self._uniform(n, -rotation_rad, rotation_rad)
        shear = self._uniform(n, -0.2, 0.2)[:, None]
        aspect = np.exp(self._uniform(n, -stretch, stretch))
        cos = np.cos(angle)[:, None]
        sin = np.sin(angle)[:, None]
        turned_x = cos * x + sin * y
        turned_y = -sin * x + cos * y
        u = (turned_x + shear * turned_y) / (scale * aspect)[:, None]
        v = turned_y / (scale / aspect)[:, None]
        bins = ((np.arctan2(v, u) + np.pi) * (_N_ANGLES / (2 * np.pi))).astype(np.int32) % _N_ANGLES
        radius = self._profiles[outline[:, None], bins]
        edge_px = scale[:, None] * self._settings.size_px / 2  # about one pixel of anti-aliasing
        return np.clip((radius - np.sqrt(u * u + v * v)) * edge_px + 0.5, 0, 1), u, v

    def _background(self, n: int) -> FloatArray:
        clutter = self._settings.clutter
        coarse = self._upsample(self._rng.standard_normal((n, 3, 5, 5), np.float32))
        fine = self._upsample(self._rng.standard_normal((n, 1, 12, 12), np.float32))
        return coarse * np.float32(0.25 * clutter) + fine * np.float32(0.30 * clutter)

    def _upsample(self, grid: FloatArray) -> FloatArray:
        """Interpolates bilinearly, `(n, c, g, g) -> (n, c, size * size)`."""
        n_cells = grid.shape[-1]
        size = self._settings.size_px
        position = np.linspace(0, n_cells - 1, size)
        cell = np.minimum(position.astype(int), n_cells - 2)
        weight = (position - cell).astype(np.float32)
        matrix = np.zeros((size, n_cells), np.float32)
        rows = np.arange(size)
        matrix[rows, cell] = 1 - weight
        matrix[rows, cell + 1] = weight
        return np.asarray(matrix @ grid @ matrix.T, np.float32).reshape(*grid.shape[:2], -1)

    def _add_distractors(self, image: FloatArray) -> FloatArray:
        """Draws two smaller plain shapes of random outlines, beneath the one that counts."""
        n = len(image)
        for _ in range(2):
            outline = self._rng.integers(0, self._settings.n_contours, n)
            scale = self._uniform(n, 0.12, 0.25)
            mask, _, _ = self._shape(outline, scale, shift=0.9, rotation_rad=3.1, stretch=0.0)
            colour = self._rng.uniform(0, 1, (n, 3)).astype(np.float32)
            image = image + mask[:, None] * (colour[:, :, None] - image)
        return image

    def _texture(self, texture_id: NDArray[np.int64], u: FloatArray, v: FloatArray) -> FloatArray:
        phase = self._uniform(len(u), 0, 2 * np.pi)[:, None]
        frequency = self._uniform(len(u), 5.5, 8.0)[:, None]
        stripes = np.sin(frequency * u + phase)
        across = np.sin(frequency * v + phase)
        textures = [
            np.zeros_like(u),
            stripes,
            np.sign(stripes) * np.sign(across) * 0.8,
            np.clip(2 * stripes * across, -1, 1),
        ]
        return np.stack(textures)[texture_id, np.arange(len(u))]
