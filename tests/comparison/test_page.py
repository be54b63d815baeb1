"""A comparison's page: its pictures, its tables, the ranking; in a browser where there is one."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cprune_rl.comparison.report.leaderboard import write_leaderboard
from cprune_rl.comparison.report.page import About, write_page
from cprune_rl.comparison.report.plots import plot_order, plot_staircase, staircase_counts
from cprune_rl.comparison.report.tables import NOTHING, overall_table, problem_tables
from cprune_rl.comparison.statistics import compare
from cprune_rl.core.intervals import rank_correlation
from cprune_rl.errors import ConfigError
from tests.doubles.fake_records import METHODS, make_record, synthetic

ABOUT: About = {
    "title": "Synthetic rows, for a test",
    "made": "2026-01-01T00:00:00Z",
    "commands": [
        "cprune-rl compare --out runs/compare --seeds 3 --problems all --floors -0.01 -0.02 --a-long-option-that-does-not-fit-a-phone"
    ],
    "system": {
        "processor": "made up",
        "n_cores": 2,
        "memory_gib": 24,
        "os": "none",
        "python": "3.11",
        "packages": {"numpy": "2.0"},
    },
    "methods": {"agent": "A policy that plans in a model.", "random": "Draws plans."},
    "problems": {"net0@synthetic-1t": "made up"},
    "notes": ["Nothing here was run."],
}


# pictures


def test_widths_that_are_no_gain_are_counted() -> None:
    points = [(64, 10.0), (60, 12.0), (56, 9.0), (52, 9.5), (48, 8.0)]
    assert staircase_counts(points) == ([60], [60, 52])
    assert staircase_counts(points, noise=0.1) == ([60], [60])
    picture = plot_staircase("stairs", "A layer", points)
    assert (
        "Of 5 widths that were timed 1 are slower than the dense layer, 2 slower than some wider one"
        in picture.caption
    )


def test_a_picture_is_light_and_dark_and_the_same_each_time(tmp_path: Path) -> None:
    pairs = [(0.1, 0.3), (0.2, 0.1), (0.3, 0.2)]
    correlation = rank_correlation(*np.array(pairs).T)
    first, second = (
        plot_order("order", "Plans", pairs, correlation, ("operations", "latency"))
        for _ in range(2)
    )
    assert first.files == second.files
    assert first.files[".svg"] != first.files["-dark.svg"]
    first.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "order-dark.png",
        "order-dark.svg",
        "order.png",
        "order.svg",
    ]
    assert "number 3 by the second, 200.0% above the least" in first.caption


# the page


class Tables(HTMLParser):
    """Texts of each table's cells, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.found.setdefault(str(dict(attrs)["data-name"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        self._in_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    stairs = [(c, 1e-6 * (c + 8 * (c % 16 > 0) + 10 * (c % 4 > 0))) for c in range(4, 65, 2)]
    order = [(0.5 + 0.03 * i, 0.5 + 0.02 * ((i * 7) % 11)) for i in range(11)]
    labels = (
        "multiply-accumulates, share of the dense network's",
        "latency, share of the dense network's",
    )
    why = [
        plot_staircase("staircase", "A made-up layer", stairs),
        plot_order("order", "Made-up plans", order, rank_correlation(*np.array(order).T), labels),
    ]
    write_page(folder, synthetic(), ABOUT, why)
    return folder


def test_the_page_names_every_method_and_says_what_it_is(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert page.lstrip().startswith("<!doctype html>")
    assert [m for m in METHODS if f'<th scope="row">{m}</th>' not in page] == []
    for part in (
        "replays of recordings",
        "Not images",
        "not independent",
        "cprune-rl compare --out",
        "0123abc",
        "Runs that failed",
        "Noise floor",
        "Nothing here was run.",
    ):
        assert part in page


def test_the_page_loads_nothing(written: Path) -> None:
    page = (written / "report.html").read_text()
    loaded = re.findall(r"""(?:src|srcset|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert loaded
    assert [u[:60] for u in loaded if not u.startswith("data:image/svg+xml;base64,")] == []
    assert re.findall(r"<link|<iframe|<object|@import|url\(|https?:", page) == []


def test_every_table_has_a_csv_file_with_its_values(written: Path) -> None:
    tables = Tables()
    tables.feed((written / "report.html").read_text())
    files = {
        p.stem: list(csv.reader(p.read_text().splitlines()))
        for p in (written / "tables").glob("*.csv")
    }
    assert set(files) == set(tables.found)
    assert len(files) == 5 + 6
    for name, shown in tables.found.items():
        for row, fields in zip(shown, files[name], strict=True):
            parts = [
                part
                for text in row
                for part in re.findall(r"^(.*?)(?: \[(.*), (.*)\])?$", text, re.S)[0]
            ]
            texts = [part for part in parts if part not in (NOTHING, "")]
            kept = [f for f in fields if f and not f.endswith((", low", ", high"))]
            assert texts == kept


def test_the_overall_table_has_what_was_found() -> None:
    found = compare(synthetic(n_problems=3), n_resamples=200)
    rows = list(csv.DictReader(overall_table(found).csv().splitlines()))
    assert [r["method"] for r in rows] == [s.method for s in found.standings]
    assert float(rows[0]["speed-up, geometric mean, low"]) == pytest.approx(
        found.standings[0].speedup.low, abs=0.005
    )
    assert len(problem_tables(found)) == 3


def test_pictures_are_written_in_both_looks(written: Path) -> None:
    names = {p.name for p in (written / "pictures").iterdir()}
    for name in (
        "iqm",
        "speedup",
        "cost-fresh-trials",
        "cost-accuracy-evaluations",
        "cost-seconds",
        "profiles",
        "pairs",
        "fronts",
        "staircase",
        "order",
    ):
        assert {f"{name}.svg", f"{name}.png", f"{name}-dark.svg", f"{name}-dark.png"} <= names


def test_a_page_of_one_row_is_written(tmp_path: Path) -> None:
    write_page(tmp_path, [make_record("random", 1.0)], {})
    assert "random" in (tmp_path / "report.html").read_text()


def test_what_a_name_holds_is_text_on_the_page(tmp_path: Path) -> None:
    write_page(tmp_path, [make_record("<script>alert(1)</script>", problem="../a b")], {})
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "tables" / "problem-..-a-b.csv").is_file()


def test_a_leaderboard_has_validated_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for method, speedup in (("agent", 2.0), ("cprune", 3.0), ("liar", 99.0), ("crippled", 4.0)):
        (tmp_path / "rows" / f"{method}.json").write_text(make_record(method, speedup).to_json())
    console = Console(record=True, width=160)
    found = write_leaderboard(tmp_path, lambda p: p.stem != "liar", console, controls=["crippled"])
    assert [(s.method, s.rank) for s in found.standings] == [
        ("cprune", 1),
        ("agent", 2),
        ("crippled", None),
    ]
    assert "3 of 4 runs were validated" in console.export_text()
    page = (tmp_path / "leaderboard.html").read_text()
    assert "cprune" in page
    assert "liar" not in page
    assert [
        r["method"] for r in csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines())
    ] == ["cprune", "agent", "crippled"]
    with pytest.raises(ConfigError, match="none of 4 rows"):
        write_leaderboard(tmp_path, lambda _: False, console)


# a real browser

CHROMIUM = shutil.which("chromium")
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const table = document.querySelector("table[data-name=overall]"), names = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent);
  table.querySelector("thead button").click();
  const page = document.documentElement, broken = [...document.images].filter(i => !i.naturalWidth).length;
  parent.postMessage({wide: page.scrollWidth, view: page.clientWidth, sorted: names(), broken}, "*");
});
</script>"""
# A browser's window is never narrower than 500 pixels, so that a phone's is a frame in it.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><title></title><script>
onmessage = e => { document.title = JSON.stringify(e.data); };
</script>
<style>body { margin: 0 } iframe { border: 0; display: block }</style><iframe src="%s" width="%d" height="%d"></iframe>"""


def browse(
    page: Path, folder: Path, width: int, *options: str, height: int = 1400, theme: int = 1
) -> subprocess.CompletedProcess[str]:
    """Opens a page in a headless browser, so many pixels wide;

    `theme` is 1 for light and 0 for dark.
    """
    frame = folder / "frame.html"
    frame.write_text(FRAME % (page.as_uri(), width, height))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        f"--window-size={max(width, 500)},{height}",
        "--virtual-time-budget=4000",
        "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={theme}",
    ]
    return subprocess.run(
        [*command, *options, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_browser_shows_the_page_without_an_error_and_without_scrolling_sideways(
    written: Path, tmp_path: Path, width: int
) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text((written / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    seen = browse(probed, tmp_path, width, "--dump-dom")
    told = re.search(r"<title>(.+?)</title>", seen.stdout)
    assert told, seen.stderr[-2000:]
    assert json.loads(told[1]) == {
        "view": width,
        "wide": width,
        "broken": 0,
        "sorted": sorted(METHODS, reverse=True),
    }
    assert "CONSOLE" not in seen.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_a_page_is_light_or_dark_as_its_reader_is(written: Path, tmp_path: Path) -> None:
    brightness = []
    for theme in (1, 0):
        browse(
            written / "report.html",
            tmp_path,
            390,
            f"--screenshot={tmp_path / 'seen.png'}",
            theme=theme,
        )
        brightness.append(
            float(np.asarray(Image.open(tmp_path / "seen.png").convert("L"))[:, :390].mean())
        )
    assert brightness[0] > 200
    assert brightness[1] < 60
