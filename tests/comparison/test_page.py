"""A comparison's page: its pictures, its tables, the ranking; in a browser where there is one."""

import csv
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.comparison.compare import compare
from cprune_rl.comparison.compiler_evidence import Inversion, Staircase
from cprune_rl.comparison.report.evidence import (
    Evidence,
    plot_inversion,
    plot_staircase,
    slower_widths,
)
from cprune_rl.comparison.report.leaderboard import write_leaderboard
from cprune_rl.comparison.report.page import About, write_page
from cprune_rl.comparison.report.tables import overall_table, problem_tables
from cprune_rl.core.intervals import rank_correlation
from cprune_rl.errors import ConfigError
from cprune_rl.reporting.tables import NOTHING
from tests.doubles.browser import browse, captions, loaded, needs_browser, probe
from tests.doubles.fake_records import METHODS, make_record, synthetic
from tests.doubles.fake_reports import SCHEMES

ABOUT = About(
    title="Synthetic rows, for a test",
    made="2026-01-01T00:00:00Z",
    commands=[
        "cprune-rl compare --out runs/compare --seeds 3 --problems all --floors -0.01 -0.02 "
        "--a-long-option-that-does-not-fit-a-phone"
    ],
    system={
        "processor": "made up",
        "n_cores": 2,
        "memory_gib": 24,
        "os": "none",
        "python": "3.11",
        "packages": {"numpy": "2.0"},
    },
    methods={"agent": "A policy that plans in a model.", "random": "Draws plans."},
    problems={"net0@synthetic-1t": "made up"},
    notes=["Nothing here was run."],
)


# pictures


def staircase(points: Sequence[tuple[int, float]], problem: str = "a@x") -> Staircase:
    return Staircase(problem=problem, layer="conv", channels_in=8, points=tuple(points))


def inversion(points: Sequence[tuple[float, float]]) -> Inversion:
    return Inversion("a@x", tuple(points), rank_correlation(*np.array(points).T))


def test_widths_that_are_no_gain_are_counted() -> None:
    points = [(64, 10.0), (60, 12.0), (56, 9.0), (52, 9.5), (48, 8.0)]
    assert slower_widths(points) == ([60], [60, 52])
    assert slower_widths(points, noise=0.1) == ([60], [60])
    picture = plot_staircase(staircase(points), noise=0.0)
    assert (
        "Of 5 widths that were timed 1 are slower than the dense layer, "
        "2 slower than some wider one" in picture.caption
    )


def test_a_picture_is_light_and_dark_and_the_same_each_time(tmp_path: Path) -> None:
    plans = inversion([(0.1, 0.3), (0.2, 0.1), (0.3, 0.2)])
    first = plot_inversion(plans)
    assert first.files == plot_inversion(plans).files
    assert first.files[".svg"] != first.files["-dark.svg"]
    first.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "order-a-x-dark.png",
        "order-a-x-dark.svg",
        "order-a-x.png",
        "order-a-x.svg",
    ]
    assert "number 3 by latency, 200.0% above the fastest" in first.caption


# the page


class Tables(HTMLParser):
    """Texts of each table's cells, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.texts.setdefault(str(dict(attrs)["data-name"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    stairs = [(c, 1e-6 * (c + 8 * (c % 16 > 0) + 10 * (c % 4 > 0))) for c in range(4, 65, 2)]
    plans = [(0.5 + 0.03 * i, 0.5 + 0.02 * ((i * 7) % 11)) for i in range(11)]
    evidence = Evidence([plot_staircase(staircase(stairs)), plot_inversion(inversion(plans))])
    write_page(folder, synthetic(), ABOUT, evidence=evidence)
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
        "cprune-rl validate",
        "Nothing here was run.",
    ):
        assert part in page


def test_the_page_loads_nothing(written: Path) -> None:
    assert loaded((written / "report.html").read_text()) == []


def test_every_table_has_a_csv_file_with_its_values(written: Path) -> None:
    tables = Tables()
    tables.feed((written / "report.html").read_text())
    files = {
        p.stem: list(csv.reader(p.read_text().splitlines()))
        for p in (written / "tables").glob("*.csv")
    }
    assert set(files) == set(tables.texts)
    assert len(files) == 5 + 6
    for name, shown in tables.texts.items():
        for row, fields in zip(shown, files[name], strict=True):
            cells = [re.findall(r"^(.*?)(?: \[(.*), (.*)\])?$", text, re.S)[0] for text in row]
            texts = [part for part in chain.from_iterable(cells) if part not in (NOTHING, "")]
            assert texts == [f for f in fields if f and not f.endswith((", low", ", high"))]


def test_the_overall_table_has_the_standings() -> None:
    comparison = compare(synthetic(n_problems=3), n_resamples=200)
    rows = list(csv.DictReader(overall_table(comparison).csv().splitlines()))
    assert [row["method"] for row in rows] == [s.method for s in comparison.standings]
    low = float(rows[0]["speed-up, geometric mean, low"])
    assert low == pytest.approx(comparison.standings[0].speedup.low, abs=0.005)
    assert len(problem_tables(comparison)) == 3


def test_pictures_are_written_in_both_themes(written: Path) -> None:
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
        "staircase-a-x",
        "order-a-x",
    ):
        assert {f"{name}.svg", f"{name}.png", f"{name}-dark.svg", f"{name}-dark.png"} <= names


def test_every_figure_links_to_the_command_that_made_it(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert [caption for caption in captions(page) if 'href="#commands"' not in caption] == []
    assert 'id="command-1"' in page


def test_a_recording_by_path_is_compared(tmp_path: Path) -> None:
    options = ["--problems", str(SCHEMES), "--methods", "uniform", "--seeds", "1", "--jobs", "1"]
    run = CliRunner().invoke(app, ["compare", *options, "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "report.html").is_file()
    names = [path.name for path in (tmp_path / "out" / "pictures").iterdir()]
    assert [name for name in names if "resnet8-znver4-1t.json.gz" in name]


def test_a_page_of_one_row_is_written(tmp_path: Path) -> None:
    write_page(tmp_path, [make_record("random", 1.0)], About())
    assert "random" in (tmp_path / "report.html").read_text()


def test_what_a_name_holds_is_text_on_the_page(tmp_path: Path) -> None:
    write_page(tmp_path, [make_record("<script>alert(1)</script>", problem="../a b")], About())
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "tables" / "problem-..-a-b.csv").is_file()


def test_a_leaderboard_has_validated_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for method, speedup in (("agent", 2.0), ("cprune", 3.0), ("liar", 99.0), ("crippled", 4.0)):
        (tmp_path / "rows" / f"{method}.json").write_text(make_record(method, speedup).to_json())
    console = Console(record=True, width=160)
    comparison = write_leaderboard(
        tmp_path, lambda path: path.stem != "liar", console, controls=["crippled"]
    )
    ranks = [(s.method, s.rank) for s in comparison.standings]
    assert ranks == [("cprune", 1), ("agent", 2), ("crippled", None)]
    assert "3 of 4 runs were validated" in console.export_text()
    page = (tmp_path / "leaderboard.html").read_text()
    assert "cprune" in page
    assert "liar" not in page
    rows = csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines())
    assert [row["method"] for row in rows] == ["cprune", "agent", "crippled"]
    with pytest.raises(ConfigError, match="none of 4 rows"):
        write_leaderboard(tmp_path, lambda _: False, console)


# a real browser


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_browser_shows_the_page(written: Path, tmp_path: Path, width: int) -> None:
    shown = probe(written / "report.html", tmp_path, width)
    assert shown["view"] == shown["wide"] == width, "the page does not scroll sideways"
    assert (shown["broken"], shown["lost"], shown["errors"]) == (0, 0, [])
    assert shown["lines"] <= 2, "an interval breaks once at most"
    assert shown["sorted"] == sorted(METHODS, reverse=True)


@pytest.mark.slow
@needs_browser
def test_a_page_is_light_or_dark_as_its_reader_is(written: Path, tmp_path: Path) -> None:
    brightness = []
    for is_dark in (False, True):
        screenshot = tmp_path / f"dark-{is_dark}.png"
        option = f"--screenshot={screenshot}"
        browse(written / "report.html", tmp_path, 390, option, is_dark=is_dark)
        with Image.open(screenshot) as picture:
            grey = np.asarray(picture.convert("L"))
        brightness.append(float(grey[:, :390].mean()))
    assert brightness[0] > 200
    assert brightness[1] < 60
