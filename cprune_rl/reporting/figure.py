"""One theme for all pictures: each is drawn for light and for dark pages, which load nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Picture", "Theme", "new_figure", "render"]

_WIDTH_IN = 5.2  # a phone shows it at two thirds of its size


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours of a picture: Okabe and Ito's hues, with enough contrast to the paper.

    Attributes:
        suffix: of file names.
        paper: background of PNG files; SVG files have none.
        ink: text and axes.
        faint: lines that only guide.
        rest: the dense network, and methods without a colour of their own.
        own: the method that the others are compared with.
        others: further methods, best first.
    """

    suffix: str
    paper: str
    ink: str
    faint: str
    rest: str
    own: str
    others: tuple[str, ...]

    def colours(self, methods: Sequence[str], own: str) -> dict[str, str]:
        """The colour of each method; `dense` and those beyond the palette are grey."""
        others = [method for method in methods if method not in (own, "dense")]
        colours = dict(zip(others, self.others, strict=False))
        return {**dict.fromkeys(methods, self.rest), **colours, own: self.own}


LIGHT = Theme(
    suffix="",
    paper="#ffffff",
    ink="#27323d",
    faint="#c9d0d8",
    rest="#a3adb8",
    own="#0072b2",
    others=("#c85000", "#007a5a", "#a8437f", "#8a6a00", "#5a55c9", "#26809e"),
)
DARK = Theme(
    suffix="-dark",
    paper="#14191f",
    ink="#d6dde5",
    faint="#4a5561",
    rest="#6f7b88",
    own="#56b4e9",
    others=("#ff9a4d", "#35cf9f", "#e79cc9", "#e6c34d", "#b1abff", "#8fd6ee"),
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered picture.

    Attributes:
        name: of its files.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        files: bytes by ending: ".svg", ".png", "-dark.svg", "-dark.png".
        is_wide: whether a phone must scroll to read it.
    """

    name: str
    alt: str
    caption: str
    files: dict[str, bytes] = field(repr=False)
    is_wide: bool = False

    @property
    def light(self) -> str:
        """The picture for light pages, as a data URI."""
        return _data_uri(self.files[".svg"])

    @property
    def dark(self) -> str:
        """The picture for dark pages, as a data URI."""
        return _data_uri(self.files["-dark.svg"])

    @property
    def png(self) -> bytes:
        """The picture as a PNG file on white paper."""
        return self.files[".png"]

    def write(self, folder: Path) -> None:
        """Write all of its files."""
        for ending, content in self.files.items():
            (folder / f"{self.name}{ending}").write_bytes(content)


def render(
    draw: Callable[[Theme], Figure], *, name: str, alt: str, caption: str, is_wide: bool = False
) -> Picture:
    """Render a picture in both themes.

    Args:
        draw: makes the figure; matplotlib's defaults are the theme's while it runs.
        name: of the files.
        alt: what it shows.
        caption: below it.
        is_wide: whether it must not shrink to a phone's width.
    """
    files = {}
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(_settings(theme)):
            figure = draw(theme)
            # Without a date the same picture has the same bytes.
            files[f"{theme.suffix}.svg"] = _saved(figure, format="svg", metadata={"Date": None})
            files[f"{theme.suffix}.png"] = _saved(figure, format="png", facecolor=theme.paper)
    return Picture(name=name, alt=alt, caption=caption, files=files, is_wide=is_wide)


def new_figure(height_in: float, width_in: float = _WIDTH_IN) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, in inches."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=160, **options)
    return buffer.getvalue()


def _settings(theme: Theme) -> dict[Any, Any]:
    return {
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "grid.alpha": 0.6,
        "font.size": 9.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        # With random ids the same picture would have other bytes each time.
        "svg.hashsalt": "cprune-rl",
    }


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
