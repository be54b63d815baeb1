"""Checks of a page: of its text, and in a headless browser as wide as a phone or a screen."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

__all__ = ["browse", "captions", "loaded", "needs_browser", "probe"]

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")

# A browser's window is never narrower than 500 pixels, so that a phone's is a frame in it.
_NARROWEST = 500
_FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><title></title><script>
onmessage = e => { document.title = JSON.stringify(e.data); };
</script>
<style>body { margin: 0 } iframe { border: 0; display: block }</style>
<iframe src="%s" width="%d" height="%d"></iframe>"""
_PROBE = """<script>
const lines = cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map(r => Math.round(r.bottom / 8))).size;
};
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const table = document.querySelector("table"), page = document.documentElement;
  table.querySelector("thead button").click();
  parent.postMessage({
    view: page.clientWidth,
    wide: page.scrollWidth,
    broken: [...document.images].filter(i => !i.naturalWidth).length,
    lost: [...document.links].filter(a => !document.getElementById(a.hash.slice(1))).length,
    lines: Math.max(...[...document.querySelectorAll("td:not(.prose)")].map(lines)),
    sorted: [...table.tBodies[0].rows].map(r => r.cells[0].textContent),
  }, "*");
});
</script>"""


def loaded(page: str) -> list[str]:
    """What a page would load from elsewhere; it has its pictures inside."""
    references = re.findall(r"""(?:src|srcset|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert references
    inside = ("data:image/svg+xml;base64,", "#")
    foreign = [reference for reference in references if not reference.startswith(inside)]
    return foreign + re.findall(r"<link|<iframe|<object|@import|url\(|https?:", page)


def captions(page: str) -> list[str]:
    """Captions of all pictures and tables of a page; each of them has one."""
    pattern = r'<figcaption>.*?</figcaption>|<p class="caption" id="table-.*?</p>'
    found = re.findall(pattern, page)
    assert len(found) == page.count("<figure") + page.count("<table")
    return found


def browse(
    page: Path, folder: Path, width: int, *options: str, is_dark: bool = False
) -> subprocess.CompletedProcess[str]:
    """Opens a page, so many pixels wide."""
    height = 1400
    frame = folder / "frame.html"
    frame.write_text(_FRAME % (page.as_uri(), width, height))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, _NARROWEST)},{height}",
        "--virtual-time-budget=4000",
        "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
        *options,
        frame.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def probe(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What a browser makes of a page whose first table was sorted by its first column.

    Returns:
        view: width of the window; wide: of the page; broken: pictures; lost: links that lead
        nowhere; lines: of the highest cell that is no prose; sorted: names of the table's rows;
        errors: lines of the browser's console.
    """
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", _PROBE + "</body>"))
    process = browse(probed, folder, width, "--dump-dom")
    title = re.search(r"<title>(.+?)</title>", process.stdout)
    assert title, process.stderr[-2000:]
    answer: dict[str, Any] = json.loads(title[1])
    answer["errors"] = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    return answer
