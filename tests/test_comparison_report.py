"""What a comparison says: its rows, its statistics by hand on small examples, its tables and its page, in a browser where there is one."""

import csv
import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import trim_mean

from cprune_rl.comparison.curves import hypervolume
from cprune_rl.comparison.leaderboard import write_leaderboard
from cprune_rl.comparison.page import About, write_page
from cprune_rl.comparison.plots import plot_order, plot_staircase, staircase_counts
from cprune_rl.comparison.resampling import interval, iqm, mean, over_problems, over_seeds
from cprune_rl.comparison.rows import COSTS, Row, read_row, read_rows
from cprune_rl.comparison.scores import score
from cprune_rl.comparison.statistics import compare
from cprune_rl.comparison.tables import NOTHING, overall_table, pairs_table, problem_tables
from cprune_rl.errors import ConfigError
from cprune_rl.intervals import rank_correlation

METHODS = ("agent", "greedy", "proxy-greedy", "surrogate", "random", "annealing", "evolution", "bayesian")


def make_row(method: str = "agent", speedup: float = 2.0, problem: str = "a@x", seed: int = 0, floor: float = -0.01, **changes: object) -> Row:
    """A run that is made up."""
    evaluations, trials = 20.0, 300.0
    row = Row(
        problem=problem,
        floor=floor,
        seed=seed,
        method=method,
        dense_s=0.004,
        latency_s=0.004 / speedup,
        accuracy=0.9 + 0.9 * floor,
        dense_accuracy=0.9,
        floor_accuracy=0.9 + floor,
        holds=True,
        plan=(8, 16),
        cost=dict.fromkeys(COSTS, 1.0) | {"fresh_trials": trials, "accuracy_evaluations": evaluations},
        curve=((0.0, 0.0, 0.0), (trials / 4, evaluations / 4, 0.5 * math.log(speedup)), (trials, evaluations, math.log(speedup))),
        ended="itself",
        error=None,
        budget={"trials": 1000.0, "evaluations": 60.0, "minutes": None},
        losses="drawn",
        commit="0123abc",
        versions={"numpy": "2.0"},
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def failed(row: Row) -> Row:
    return replace(row, ended="error", error="it broke", latency_s=row.dense_s, plan=(), curve=())


def synthetic(methods: Sequence[str] = METHODS, n_problems: int = 6, floors: Sequence[float] = (-0.01, -0.02), n_seeds: int = 3) -> list[Row]:
    """Runs by a seeded generator, of no search: better methods come first."""
    rng = random.Random(0)
    rows = []
    for p in range(n_problems):
        hardness = rng.uniform(0.5, 1.3)
        for floor in floors:
            for seed in range(n_seeds):
                best = hardness * (1 + 12 * abs(floor)) * rng.uniform(0.85, 1.15)
                for at, method in enumerate(methods):
                    share = min(1.0, max(0.05, 0.96 - 0.025 * at + rng.gauss(0, 0.05) + 0.04 * math.sin(7 * p + at)))
                    costs = (rng.uniform(200, 900) * (1 + 0.05 * at), rng.uniform(15, 30) * (1 + 0.08 * at))
                    shape = [(f, 1 - math.exp(-3.5 * f)) for f in (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)]
                    curve = ((0.0, 0.0, 0.0), *((f * costs[0], f * costs[1], share * best * g) for f, g in shape), (*costs, share * best))
                    row = make_row(method, math.exp(share * best), f"net{p}@synthetic-{p % 4 + 1}t", seed, floor, curve=curve, accuracy=0.9 + floor * rng.uniform(0.7, 1))
                    spent = dict(zip(("fresh_trials", "accuracy_evaluations"), costs, strict=True)) | {"tasks": 90.0, "measure_s": costs[0] / 3, "train_s": 25 * costs[1]}
                    rows.append(replace(row, cost=row.cost | spent))
    rows[-1] = failed(rows[-1])
    return rows


ABOUT: About = {
    "title": "Synthetic rows, for a test",
    "made": "2026-01-01T00:00:00Z",
    "commands": ["cprune-rl compare --out runs/compare --seeds 3 --problems all --floors -0.01 -0.02 --a-long-option-that-does-not-fit-a-phone"],
    "system": {"processor": "made up", "n_cores": 2, "memory_gib": 24, "os": "none", "python": "3.11", "packages": {"numpy": "2.0"}},
    "methods": {"agent": "A policy that plans in a model.", "random": "Draws plans."},
    "problems": {"net0@synthetic-1t": "made up"},
    "notes": ["Nothing here was run."],
}


# rows


def test_a_row_survives_its_file(tmp_path: Path) -> None:
    rows = [make_row(), failed(make_row("greedy")), make_row("exact", holds=False, ended="budget")]
    (tmp_path / "rows").mkdir()
    for at, row in enumerate(rows):
        assert Row.from_json(row.to_json()) == row
        (tmp_path / "rows" / f"{at}.json").write_text(row.to_json())
    assert read_rows(tmp_path) == rows


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("{", "Invalid JSON"),
        ("[1, 2]", "is no row"),
        ('{"model": "resnet8"}', "format"),
        (make_row().to_json()[:-40], "Invalid JSON"),
        (make_row().to_json().replace("row 1", "row 2"), "format"),
        (make_row().to_json().replace('"seed": 0', '"seed": "0"'), "row.seed"),
        (make_row().to_json().replace('"holds": true', '"holds": 1'), "row.holds"),
        (make_row().to_json().replace('"dense_s": 0.004', '"dense_s": NaN'), "row.dense_s"),
        (make_row().to_json().replace('"dense_s": 0.004', '"dense_s": -1.0'), "row.dense_s"),
        (make_row().to_json().replace('"ended"', '"finished": 1, "ended"'), "row.finished"),
        (make_row().to_json().replace('"wall_s"', '"wall_ms"'), "cost names"),
        (make_row().to_json().replace('"minutes"', '"hours"'), "budget names"),
        (make_row().to_json().replace('"error": null', '"error": "late"'), "which"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path, wrong: str, says: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(wrong)
    with pytest.raises(ConfigError, match=r"one\.json is no row of a comparison") as caught:
        read_row(path)
    assert says in str(caught.value)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="shrinks"):
        make_row(curve=((2.0, 2.0, 0.1), (1.0, 3.0, 0.2)))
    with pytest.raises(ValueError, match="dense_s"):
        make_row(ended="error", error="late")


def test_a_folder_without_rows_or_with_two_of_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        read_rows(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.json"):
        read_rows(tmp_path)
    for name in "ab":
        (tmp_path / "rows" / f"{name}.json").write_text(make_row().to_json())
    with pytest.raises(ConfigError, match=r"a\.json and b\.json"):
        read_rows(tmp_path)


def test_a_run_that_failed_or_missed_its_floor_gained_nothing() -> None:
    assert make_row(speedup=3.0).speedup == pytest.approx(3.0)
    assert make_row(speedup=3.0, holds=False).log_gain == 0.0
    assert failed(make_row(speedup=3.0)).speedup == 1.0


# statistics


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 25])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert iqm(values, np.ones((1, n)))[0] == pytest.approx(trim_mean(values, 0.25))
    assert iqm(np.append(values, np.nan), np.ones((1, n + 1)))[0] == pytest.approx(trim_mean(values, 0.25))


def test_a_weight_stands_for_that_many_copies() -> None:
    values, weights = np.array([1.0, 5.0, 2.0, 9.0]), np.array([[3.0, 0.0, 2.0, 1.0], [0.0, 4.0, 1.0, 3.0]])
    copies = [np.repeat(values, w.astype(int)) for w in weights]
    assert iqm(values, weights) == pytest.approx([trim_mean(c, 0.25) for c in copies])
    assert mean(values, weights) == pytest.approx([c.mean() for c in copies])


def test_the_interquartile_mean_of_known_values() -> None:
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]), np.ones((1, 8)))[0] == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_resamples_keep_problems_whole_and_strata_as_large_as_they_were() -> None:
    problem = np.array([0, 0, 0, 1, 1, 2])
    whole = over_problems(problem, 50)
    assert (whole[:, 0] == whole[:, 1]).all()
    assert (whole[:, 3] == whole[:, 4]).all()
    assert ((whole[:, 0] + whole[:, 3] + whole[:, 5]) == 3).all()
    within = over_seeds(problem, 50)
    assert (within[:, :3].sum(1) == 3).all()
    assert (within[:, 5] == 1).all()


def test_figures_by_hand() -> None:
    """Two problems, two methods: log gains of ln 2, ln 8 and ln 4, ln 4."""
    rows = [make_row("agent", 2.0, "a@x"), make_row("agent", 8.0, "b@x"), make_row("greedy", 4.0, "a@x"), make_row("greedy", 4.0, "b@x")]
    found = compare(rows)
    agent, greedy = sorted(found.standings, key=lambda s: s.method)
    assert agent.speedup.value == pytest.approx(4.0)
    assert greedy.speedup.value == pytest.approx(4.0)
    assert agent.share.value == pytest.approx((1 / 2 + 1) / 2)
    assert greedy.share.value == pytest.approx((1 + 2 / 3) / 2)
    assert (agent.speedup.low, agent.speedup.high) == pytest.approx((2.0, 8.0))
    assert [s.method for s in found.standings] == ["greedy", "agent"]
    assert [s.rank for s in found.standings] == [1, 2]
    assert (greedy.faster, greedy.slower) == (0.5, 0.5)
    assert greedy.beats_agent is not None
    assert greedy.beats_agent.value == 0.5
    assert greedy.agent_over is not None
    assert greedy.agent_over.value == pytest.approx(0.75 - 5 / 6)
    assert found.profiles["agent"].value[[0, 50, 51, 100]] == pytest.approx([1.0, 1.0, 0.5, 0.5])


def test_a_proof_is_the_reference_and_gives_a_gap() -> None:
    rows = [make_row("exact", math.e**2), make_row("agent", math.e), make_row("exact", 4.0, seed=1, ended="budget"), make_row("agent", 8.0, seed=1)]
    scores = score(rows)
    assert scores.is_proven.tolist() == [True, False]
    assert scores.reference == pytest.approx([2.0, math.log(8)])
    agent = next(s for s in compare(rows).standings if s.method == "agent")
    assert agent.gap is not None
    assert agent.gap.value == pytest.approx(0.5)


def test_the_reference_is_not_ranked_but_counts_as_the_best() -> None:
    found = compare([make_row("reference", math.e**2), make_row("agent", math.e)])
    assert [s.method for s in found.standings] == ["agent"]
    assert found.standings[0].share.value == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([make_row("reference")])


def test_where_nothing_is_to_be_gained_finding_nothing_is_all() -> None:
    found = compare([make_row("agent", 1.0), make_row("greedy", 0.8)])
    assert {s.method: s.share.value for s in found.standings} == {"agent": 1.0, "greedy": 0.0}


def test_a_method_that_lacks_cases_is_shown_and_not_ranked() -> None:
    found = compare([make_row("agent", 2.0), make_row("agent", 2.0, seed=1), make_row("greedy", 3.0)])
    assert [(s.method, s.rank) for s in found.standings] == [("agent", 1), ("greedy", None)]
    assert any("greedy (1 of 2)" in r for r in found.remarks)


def test_methods_that_share_no_case_are_not_compared() -> None:
    found = compare([make_row("agent", 2.0), make_row("greedy", 3.0, seed=1)])
    assert np.isnan(found.improvement[0, 1]).all()
    assert found.standings[1].beats_agent is None
    assert NOTHING in pairs_table(found).cells()[0][2][0]


def test_two_rows_of_one_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="two rows"):
        compare([make_row(), make_row()])


def test_the_order_of_rows_changes_nothing() -> None:
    rows = synthetic(n_problems=3)
    shuffled = random.Random(1).sample(rows, len(rows))
    first, second = compare(rows, n_resamples=200), compare(shuffled, n_resamples=200)
    assert first.standings == second.standings
    assert first.cells == second.cells
    assert first.fronts == second.fronts
    assert np.array_equal(first.improvement, second.improvement)
    assert first.remarks == second.remarks


def test_intervals_hold_their_values_and_are_wider_over_problems() -> None:
    found = compare(synthetic(), n_resamples=500)
    for s in found.standings:
        for i in (s.iqm, s.iqm_seeds, s.share, s.speedup, s.speedup_seeds, s.agent_over, s.beats_agent):
            assert i is None or i.low <= i.value <= i.high
        assert s.speedup.high - s.speedup.low > s.speedup_seeds.high - s.speedup_seeds.low
    for c in found.cells:
        assert c.speedup.low <= c.speedup.value <= c.speedup.high


def test_chances_of_a_pair_add_up_to_one() -> None:
    values, low, high = np.moveaxis(compare(synthetic(), n_resamples=300).improvement, -1, 0)
    assert values + values.T == pytest.approx(np.ones_like(values))
    assert low + high.T == pytest.approx(np.ones_like(values))
    assert np.diagonal(values) == pytest.approx(0.5)


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(2.0, -1.0), (3.0, -2.0)], (1.0, -4.0)) == pytest.approx(1 * 3 + 1 * 2)
    assert hypervolume([(3.0, -1.0), (2.0, -2.0)], (1.0, -4.0)) == pytest.approx(2 * 3)  # the second is dominated
    assert hypervolume([(0.9, 0.0), (2.0, -5.0)], (1.0, -4.0)) == 0.0
    front = compare([make_row("agent", 2.0, accuracy=0.89), make_row("agent", 3.0, floor=-0.02, accuracy=0.88)]).fronts["agent"]
    assert front.worst == -4.0
    assert front.hypervolume.value == pytest.approx(5.0)


def test_gain_against_cost_ends_where_the_method_ended() -> None:
    found = compare(synthetic(n_problems=3), n_resamples=200)
    for cost in ("fresh_trials", "accuracy_evaluations"):
        for standing in found.standings:
            curve = found.costs[cost][standing.method]
            assert curve.value[-1] == pytest.approx(standing.speedup.value)
            assert (np.diff(curve.value) >= -1e-12).all()


def test_gain_at_a_cost_by_hand() -> None:
    """Half the gain is there from a quarter of the evaluations on, all of it at the end."""
    curve = compare([make_row("agent", 4.0)]).costs["accuracy_evaluations"]["agent"]
    assert (curve.x[0], curve.x[-1]) == pytest.approx((5.0, 20.0))
    assert (curve.value[0], curve.value[-2], curve.value[-1]) == pytest.approx((2.0, 2.0, 4.0))


def test_a_cost_that_nobody_had_is_left_out() -> None:
    row = make_row()
    free = replace(row, cost=row.cost | {"fresh_trials": 0.0}, curve=((0.0, 0.0, 0.0), (0.0, 20.0, row.log_gain)))
    assert set(compare([free]).costs) == {"accuracy_evaluations"}


def test_oddities_are_said() -> None:
    rows = [make_row(), failed(make_row(seed=1)), make_row(seed=2, holds=False), make_row("greedy", budget={"trials": 5.0, "evaluations": 1.0, "minutes": None}, commit="other")]
    rows += [make_row("exact", 1.5), make_row("greedy", losses="recorded")]
    said = " ".join(compare(rows).remarks)
    for part in (
        "one problem only",
        "failed count as no gain: agent (1)",
        "does not hold its floor count as no gain: agent (1)",
        "Budgets are not equal",
        "2 commits",
        "pooled",
        "proven",
    ):
        assert part in said


def test_an_interval_of_equal_values_is_the_value() -> None:
    found = interval(mean, np.full(6, 0.25), over_problems(np.arange(6), 100))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


# pictures


def test_widths_that_are_no_gain_are_counted() -> None:
    points = [(64, 10.0), (60, 12.0), (56, 9.0), (52, 9.5), (48, 8.0)]
    assert staircase_counts(points) == ([60], [60, 52])
    assert staircase_counts(points, noise=0.1) == ([60], [60])
    picture = plot_staircase("stairs", "A layer", points)
    assert "Of 5 widths that were timed 1 are slower than the dense layer, 2 slower than some wider one" in picture.caption


def test_a_picture_is_light_and_dark_and_the_same_each_time(tmp_path: Path) -> None:
    pairs = [(0.1, 0.3), (0.2, 0.1), (0.3, 0.2)]
    correlation = rank_correlation(*np.array(pairs).T)
    first, second = (plot_order("order", "Plans", pairs, correlation, ("operations", "latency")) for _ in range(2))
    assert first.files == second.files
    assert first.files[".svg"] != first.files["-dark.svg"]
    first.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["order-dark.png", "order-dark.svg", "order.png", "order.svg"]
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
    labels = ("multiply-accumulates, share of the dense network's", "latency, share of the dense network's")
    why = [plot_staircase("staircase", "A made-up layer", stairs), plot_order("order", "Made-up plans", order, rank_correlation(*np.array(order).T), labels)]
    write_page(folder, synthetic(), ABOUT, why)
    return folder


def test_the_page_names_every_method_and_says_what_it_is(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert page.lstrip().startswith("<!doctype html>")
    assert [m for m in METHODS if f'<th scope="row">{m}</th>' not in page] == []
    for part in ("rehearsals of recordings", "Not images", "not independent", "cprune-rl compare --out", "0123abc", "Runs that failed", "Noise floor", "Nothing here was run."):
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
    files = {p.stem: list(csv.reader(p.read_text().splitlines())) for p in (written / "tables").glob("*.csv")}
    assert set(files) == set(tables.found)
    assert len(files) == 5 + 6
    for name, shown in tables.found.items():
        for row, fields in zip(shown, files[name], strict=True):
            texts = [part for text in row for part in re.fullmatch(r"(.*?)(?: \[(.*), (.*)\])?", text, re.S).groups() if part not in (None, NOTHING, "")]  # type: ignore[union-attr]
            kept = [f for f in fields if f and not f.endswith((", low", ", high"))]
            assert texts == kept


def test_the_overall_table_has_what_was_found() -> None:
    found = compare(synthetic(n_problems=3), n_resamples=200)
    rows = list(csv.DictReader(overall_table(found).csv().splitlines()))
    assert [r["method"] for r in rows] == [s.method for s in found.standings]
    assert float(rows[0]["speed-up, geometric mean, low"]) == pytest.approx(found.standings[0].speedup.low, abs=0.005)
    assert len(problem_tables(found)) == 3


def test_pictures_are_written_in_both_looks(written: Path) -> None:
    names = {p.name for p in (written / "pictures").iterdir()}
    for name in ("iqm", "speedup", "cost-fresh-trials", "cost-accuracy-evaluations", "profiles", "pairs", "fronts", "staircase", "order"):
        assert {f"{name}.svg", f"{name}.png", f"{name}-dark.svg", f"{name}-dark.png"} <= names


def test_a_page_of_one_row_is_written(tmp_path: Path) -> None:
    write_page(tmp_path, [make_row("random", 1.0)], {})
    assert "random" in (tmp_path / "report.html").read_text()


def test_what_a_name_holds_is_text_on_the_page(tmp_path: Path) -> None:
    write_page(tmp_path, [make_row("<script>alert(1)</script>", problem="../a b")], {})
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "tables" / "problem-..-a-b.csv").is_file()


def test_a_leaderboard_has_validated_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for method, speedup in (("agent", 2.0), ("greedy", 3.0), ("liar", 99.0)):
        (tmp_path / "rows" / f"{method}.json").write_text(make_row(method, speedup).to_json())
    console = Console(record=True, width=160)
    found = write_leaderboard(tmp_path, lambda p: p.stem != "liar", console)
    assert [s.method for s in found.standings] == ["greedy", "agent"]
    assert "2 of 3 runs were validated" in console.export_text()
    page = (tmp_path / "leaderboard.html").read_text()
    assert "greedy" in page
    assert "liar" not in page
    assert [r["method"] for r in csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines())] == ["greedy", "agent"]
    with pytest.raises(ConfigError, match="none of 3 rows"):
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


def browse(page: Path, folder: Path, width: int, *options: str, height: int = 1400, look: int = 1) -> subprocess.CompletedProcess[str]:
    """Opens a page in a headless browser, so many pixels wide; `look` is 1 for light and 0 for dark."""
    frame = folder / "frame.html"
    frame.write_text(FRAME % (page.as_uri(), width, height))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={max(width, 500)},{height}", "--virtual-time-budget=4000", "--enable-logging=stderr", f"--blink-settings=preferredColorScheme={look}"]
    return subprocess.run([*command, *options, frame.as_uri()], capture_output=True, text=True, timeout=180, check=True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_browser_shows_the_page_without_an_error_and_without_scrolling_sideways(written: Path, tmp_path: Path, width: int) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text((written / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    seen = browse(probed, tmp_path, width, "--dump-dom")
    told = re.search(r"<title>(.+?)</title>", seen.stdout)
    assert told, seen.stderr[-2000:]
    assert json.loads(told[1]) == {"view": width, "wide": width, "broken": 0, "sorted": sorted(METHODS, reverse=True)}
    assert "CONSOLE" not in seen.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_a_page_is_light_or_dark_as_its_reader_is(written: Path, tmp_path: Path) -> None:
    brightness = []
    for look in (1, 0):
        browse(written / "report.html", tmp_path, 390, f"--screenshot={tmp_path / 'seen.png'}", look=look)
        brightness.append(float(np.asarray(Image.open(tmp_path / "seen.png").convert("L"))[:, :390].mean()))
    assert brightness[0] > 200
    assert brightness[1] < 60
