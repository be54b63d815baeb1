"""A picture as files: painted once for light and once for dark pages, transparent, so that a page
loads nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Picture", "Theme", "paint"]


@dataclass(frozen=True)
class Theme:
    """Colours of a picture;

    Okabe and Ito's order of hues, darkened or lightened until they stand out.

    Attributes:
        suffix: of file names.
        ink: text and axes.
        faint: lines that only guide.
        rest: methods that are not named in the picture.
        agent: the method that the others are set against.
        others: further methods, best first.
    """

    suffix: str
    ink: str
    faint: str
    rest: str
    agent: str
    others: tuple[str, ...]


LIGHT = Theme(
    "",
    "#27323d",
    "#c9d0d8",
    "#a3adb8",
    "#0072b2",
    ("#c85000", "#007a5a", "#a8437f", "#8a6a00", "#5a55c9", "#26809e"),
)
DARK = Theme(
    "-dark",
    "#d6dde5",
    "#4a5561",
    "#6f7b88",
    "#56b4e9",
    ("#ff9a4d", "#35cf9f", "#e79cc9", "#e6c34d", "#b1abff", "#8fd6ee"),
)


@dataclass(frozen=True)
class Picture:
    """A painted picture.

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
        """As a data URI."""
        return _uri(self.files[".svg"])

    @property
    def dark(self) -> str:
        """As a data URI, for dark pages."""
        return _uri(self.files["-dark.svg"])

    def write(self, folder: Path) -> None:
        """Writes its files."""
        for ending, content in self.files.items():
            (folder / f"{self.name}{ending}").write_bytes(content)


def paint(
    name: str, alt: str, caption: str, painter: Callable[[Theme], Figure], is_wide: bool = False
) -> Picture:
    """Paints in both looks.

    Args:
        name: of the files.
        alt: what it shows.
        caption: below it.
        painter: makes the figure; matplotlib's defaults are the theme's while it runs.
        is_wide: whether it must not shrink to a phone's width.
    """
    files = {}
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(_settings(theme)):
            figure = painter(theme)
            for kind in ("svg", "png"):
                buffer = io.BytesIO()
                figure.savefig(
                    buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None
                )
                files[f"{theme.suffix}.{kind}"] = buffer.getvalue()
    return Picture(name, alt, caption, files, is_wide)


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
        "svg.hashsalt": "cprune-rl",  # the same picture, the same bytes
    }


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
