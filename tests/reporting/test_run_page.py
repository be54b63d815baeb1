"""The page of a run: what it says, its pictures, its links; in a browser where there is one."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.reporting.run_page import write_page
from cprune_rl.reporting.run_plots import plot_plan
from tests.doubles.browser import captions, loaded, needs_browser, probe
from tests.doubles.fake_reports import as_estimate, make_report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_page(folder / "report.html", make_report())
    return folder


def test_the_page_states_the_result_and_how_it_was_made(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "<h1>resnet8: 3.00x faster</h1>" in page
    for part in (
        "0.300 ms",
        "dense 0.800 ms",
        '<span>3.00</span> <span class="interval">[2.90, 3.10]</span>',
        "noise floor: +-1.0%",
        "compared with torch on 16 images: their answers are at most 3e-05 of the spread",
        "do not quote its figures",
        "finetune:30",
        "train_agent.py train --fast --out run",
        f"cprune-rl validate {written.name}",
    ):
        assert part in page
    with Image.open(written / "latencies.png") as picture:
        assert picture.width > 600


def test_the_page_of_an_estimate_says_so(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", as_estimate(make_report()))
    page = (tmp_path / "report.html").read_text()
    assert "<h1>resnet8: 3.00x faster (estimate)</h1>" in page
    assert "Nothing was built or timed in this run" in page
    assert "estimate, ms" in page
    assert "interleaved rounds" not in page
    assert "compared with torch" not in page


def test_a_page_of_functions_of_ones_own_names_what_they_judged_on(tmp_path: Path) -> None:
    report = make_report()
    own_loop = OwnLoop(name="mine", gate_images="search", test_images="search", is_paired=False)
    data = {**report.oracle.data, "n_given": 321}
    report = replace(
        report,
        result=replace(report.result, own_loop=own_loop),
        oracle=replace(report.oracle, data=data),
    )
    write_page(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text()
    for part in (
        "Functions of your own, mine, trained and judged all networks.",
        *own_loop.caveats,
        "Accuracy on the search&#39;s images",
        "accuracy on the search&#39;s images, %",
        "is not paired with the dense network, as only the number of right images is known",
        "for the gate, the same ones",
        "for the test, the same as for the search",
        "Batch norms saw 321 images",
    ):
        assert part in page
    assert "all apart" not in page
    assert "est accuracy" not in page.replace(own_loop.caveats[1], "")


def test_a_run_without_a_gain_claims_none(tmp_path: Path) -> None:
    report = make_report()
    main = replace(report.result.main, speedup=1.0, speedup_ci=(0.99, 1.01))
    write_page(tmp_path / "report.html", replace(report, result=replace(report.result, main=main)))
    page = (tmp_path / "report.html").read_text()
    assert "<h1>resnet8: no gain measurable</h1>" in page
    assert "no gain measurable (1.00)" in page


def test_every_figure_links_to_the_command_that_made_it(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert [caption for caption in captions(page) if 'href="#commands"' not in caption] == []
    assert 'id="commands"' in page


def test_the_page_loads_nothing(written: Path) -> None:
    assert loaded((written / "report.html").read_text()) == []


def test_a_plan_is_shown_layer_by_layer_before_and_after() -> None:
    report = make_report()
    network = report.table.network
    name, plan = report.plans[-1]
    text = plot_plan(network, name, plan).files[".svg"].decode()
    kept = network.widths(plan)
    before = network.widths(network.dense)
    for subgraph in network.subgraphs:
        if subgraph.template.operator.name != "other":
            after = subgraph.channels_out.at(kept)
            assert f"{after} of {subgraph.channels_out.at(before)}" in text
            assert subgraph.name in text
    assert text.count("block(8,0.25)") == len(plan.schemes)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_the_page(written: Path, tmp_path: Path, width: int) -> None:
    shown = probe(written / "report.html", tmp_path, width)
    assert shown["view"] == shown["wide"] == width, "the page does not scroll sideways"
    assert (shown["broken"], shown["lost"], shown["errors"]) == (0, 0, [])
    assert shown["lines"] <= 2, "an interval breaks once at most"
    assert shown["sorted"] == ["dense", "cprune", "agent"]
