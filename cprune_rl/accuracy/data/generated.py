"""Data sets that are computed, not read: `contours`, drawn, and scikit-learn's `digits`.

A class of `contours` is a closed outline (a Fourier series for the radius) times a fill texture. Each
image draws colour, pose, distractors, clutter and noise at random. The set is hard enough that a
narrower network loses accuracy on it. It needs no download, and each seed gives other images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.splits import ImageData, Split

__all__ = ["DIFFICULTIES", "ContourSettings", "contours", "digits", "draw_contours"]

FloatArray = NDArray[np.float32]

_N_ANGLES = 256
_CLASS_SEED = 7  # the classes themselves never change: only the images drawn from them do
_MIN_CLASS_DISTANCE = 0.085  # mean radius difference below which two contours look alike
_CHUNK = 512


@dataclass(frozen=True)
class ContourSettings:
    """Difficulty of the set.

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
        """Number of labels."""
        return self.n_contours * self.n_textures


DIFFICULTIES = {
    "easy": ContourSettings(n_textures=1, noise=0.02, clutter=0.1, rotation_rad=0.2),
    "standard": ContourSettings(),
    "hard": ContourSettings(n_contours=8, n_textures=3, noise=0.08, clutter=0.3, rotation_rad=0.6),
}
"""Presets of `contours:NAME`; `standard` is the one that the documentation speaks of."""


def contours(name: str, difficulty: str = "standard", fast: bool = False) -> ImageData:
    """Draws the images.

    Args:
        name: of the data set.
        difficulty: a key of `DIFFICULTIES`.
        fast: fewer images to train and search on.
    """
    settings = DIFFICULTIES[difficulty]
    sizes = (8000, 2000, 10000, 10000) if fast else (20000, 4000, 10000, 10000)
    train, search, gate, test = (
        Split(*draw_contours(n, seed, settings)) for seed, n in enumerate(sizes, start=1)
    )
    return ImageData(name, settings.n_classes, train, search, gate, test)


def digits(name: str) -> ImageData:
    """1,797 handwritten digits at 32 by 32:

    for smoke tests, any network gets nearly all of them right.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.kron(small, np.ones((1, 4, 4), np.uint8))[:, None], 3, axis=1)
    order = np.random.default_rng(0).permutation(len(images))
    bounds = (0, 900, 1200, 1500, len(images))
    train, search, gate, test = (
        Split(images[order[a:b]], bunch.target[order[a:b]].astype(np.int64))
        for a, b in itertools.pairwise(bounds)
    )
    return ImageData(name, 10, train, search, gate, test)


def draw_contours(
    n_images: int, seed: int, settings: ContourSettings | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draws labelled images; the same seed gives the same images.

    Args:
        n_images: how many.
        seed: chooses labels, poses, colours and noise.
        settings: difficulty; None is the set used throughout the documentation.

    Returns:
        Images `(n, 3, size_px, size_px)` uint8 and labels `(n,)` int64 in `[0, n_classes)`.
    """
    settings = settings or ContourSettings()
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, settings.n_classes, n_images)
    painter = _Painter(settings, _radius_profiles(settings.n_contours), rng)
    images = np.empty((n_images, 3, settings.size_px, settings.size_px), np.uint8)
    for start in range(0, n_images, _CHUNK):
        images[start : start + _CHUNK] = painter.paint(labels[start : start + _CHUNK])
    return images, labels.astype(np.int64)


def _radius_profiles(n_contours: int) -> FloatArray:
    """Radius over angle of each outline, `(n_contours, 256)`:

    two harmonics, equal areas, mutually distinct.
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
        distances = [
            min(np.abs(np.roll(radius, s) - p).mean() for s in range(0, _N_ANGLES, 4))
            for p in profiles
        ]
        if all(d > _MIN_CLASS_DISTANCE for d in distances):
            profiles.append(radius)
    return np.stack(profiles).astype(np.float32)


class _Painter:
    """Draws one chunk at a time; all arrays have the images first and the pixels last."""

    def __init__(
        self, settings: ContourSettings, profiles: FloatArray, rng: np.random.Generator
    ) -> None:
        self._settings, self._profiles, self._rng = settings, profiles, rng
        size = settings.size_px
        axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size / 2)
        x, y = np.meshgrid(axis, axis)
        self._x, self._y = x.ravel()[None], y.ravel()[None]

    def paint(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """One chunk of images, `(len(labels), 3, size, size)`."""
        n, size = len(labels), self._settings.size_px
        outline, texture_id = (
            labels // self._settings.n_textures,
            labels % self._settings.n_textures,
        )
        mask, u, v = self._shape(
            outline, 0.2, self._uniform(n, 0.50, 0.70), self._settings.rotation_rad, 0.12
        )
        background = self._background(n)
        base = self._rng.uniform(0.15, 0.85, (n, 3)).astype(np.float32)
        direction = self._rng.standard_normal((n, 3)).astype(np.float32)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        fill = base + direction * self._uniform(n, 0.30, 0.60)[:, None]
        image = self._add_distractors(base[:, :, None] + background)
        painted = (
            fill[:, :, None]
            + direction[:, :, None] * (0.28 * self._texture(texture_id, u, v))[:, None]
            + background * 0.5
        )
        image = image + mask[:, None] * (painted - image)
        image += self._settings.noise * self._rng.standard_normal(image.shape, np.float32)
        return np.asarray((np.clip(image, 0, 1) * 255).astype(np.uint8).reshape(n, 3, size, size))

    def _uniform(self, n: int, low: float, high: float) -> FloatArray:
        return self._rng.uniform(low, high, n).astype(np.float32)

    def _shape(
        self,
        outline: NDArray[np.int64],
        shift: float,
        scale: FloatArray,
        rotation: float,
        stretch: float,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coverage in [0, 1] of each pixel, and the pixel coordinates in the frame of the shape."""
        n = len(outline)
        x = self._x - self._uniform(n, -shift, shift)[:, None]
        y = self._y - self._uniform(n, -shift, shift)[:, None]
        angle = self._uniform(n, -rotation, rotation)
        shear = self._uniform(n, -0.2, 0.2)[:, None]
        aspect = np.exp(self._uniform(n, -stretch, stretch))
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        u, v = cos * x + sin * y, -sin * x + cos * y
        u, v = (u + shear * v) / (scale * aspect)[:, None], v / (scale / aspect)[:, None]
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
        """Bilinear `(n, c, g, g) -> (n, c, size * size)` by two small matrix products."""
        n_cells, size = grid.shape[-1], self._settings.size_px
        position = np.linspace(0, n_cells - 1, size)
        cell = np.minimum(position.astype(int), n_cells - 2)
        weight = (position - cell).astype(np.float32)
        matrix = np.zeros((size, n_cells), np.float32)
        rows = np.arange(size)
        matrix[rows, cell], matrix[rows, cell + 1] = 1 - weight, weight
        return np.asarray(matrix @ grid @ matrix.T, np.float32).reshape(*grid.shape[:2], -1)

    def _add_distractors(self, image: FloatArray) -> FloatArray:
        """Two smaller plain shapes of random outlines, drawn beneath the one that counts."""
        n = len(image)
        for _ in range(2):
            outline = self._rng.integers(0, self._settings.n_contours, n)
            mask, _, _ = self._shape(outline, 0.9, self._uniform(n, 0.12, 0.25), 3.1, 0.0)
            colour = self._rng.uniform(0, 1, (n, 3)).astype(np.float32)
            image = image + mask[:, None] * (colour[:, :, None] - image)
        return image

    def _texture(self, texture_id: NDArray[np.int64], u: FloatArray, v: FloatArray) -> FloatArray:
        phase = self._uniform(len(u), 0, 2 * np.pi)[:, None]
        frequency = self._uniform(len(u), 5.5, 8.0)[:, None]
        stripes, across = np.sin(frequency * u + phase), np.sin(frequency * v + phase)
        textures = [
            np.zeros_like(u),
            stripes,
            np.sign(stripes) * np.sign(across) * 0.8,
            np.clip(2 * stripes * across, -1, 1),
        ]
        return np.stack(textures)[texture_id, np.arange(len(u))]
