"""Tables of a run, for its page and for the terminal: results, costs, tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from cprune_rl.core.intervals import Interval
from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.core.result import DenseFigures, Figures, FrontPoint, MethodResult, Result
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow
from cprune_rl.reporting.tables import NOTHING, Column, Table, Value

__all__ = [
    "NO_GAIN",
    "accuracy_on",
    "agreement_note",
    "costs_table",
    "dense_note",
    "front_table",
    "loop_note",
    "noise_note",
    "prediction_note",
    "results_table",
    "subgraph_table",
]

NO_GAIN = "no gain measurable"
_COSTS = {
    "fresh_trials": "fresh trials",
    "cached_trials": "cached trials",
    "accuracy_evaluations": "accuracy evaluations",
    "full_finetunes": "full fine-tunes",
    "measure_s": "measuring, s",
    "train_s": "fine-tuning, s",
    "policy_s": "training the policy, s",
}


class _Network(NamedTuple):
    """A network of the results; the dense ones have no method."""

    name: str
    figures: Figures
    method: MethodResult | None


def results_table(result: Result) -> Table:
    """Compare the dense network with the network of each method, the run's own last."""
    kind = "estimate" if result.is_estimate else "latency"
    speedup = "speed-up, estimate" if result.is_estimate else "speed-up"
    columns = [
        Column(title="network", value=lambda n: n.name),
        Column(title=f"{kind}, ms", value=_latency, digits=3, has_interval=True),
        Column(title=speedup, value=partial(_speedup, result), digits=2, has_interval=True),
        Column(
            title=f"{accuracy_on(result.accuracy_word, result.shown_on)}, %",
            value=_test_accuracy,
            digits=2,
            scale=100,
            has_interval=True,
        ),
        Column(title="gate bound, %", value=_gate_bound, digits=2, scale=100),
        Column(title="parameters, k", value=lambda n: n.figures.n_params, digits=1, scale=1e-3),
        Column(title="MACs, M", value=lambda n: n.figures.macs, digits=2, scale=1e-6),
    ]
    if not result.is_estimate:
        columns.append(
            Column(title="estimate off, %", value=_error, digits=1, scale=100, is_signed=True)
        )
    networks = [_Network("dense", result.dense, None)]
    if result.dense_finetuned is not None:
        networks.append(_Network("dense, fine-tuned", result.dense_finetuned, None))
    networks += [_Network(m.method, m.pruned, m) for m in result.methods]
    return Table(
        name="results",
        caption=_title(result),
        columns=columns,
        items=networks,
        own=result.method,
    )


def costs_table(result: Result) -> Table:
    """Compare what the searches of a run cost."""
    columns = [Column(title="search", value=lambda m: m.method)]
    for name, title in _COSTS.items():
        columns.append(Column(title=title, value=partial(_cost, name)))
    columns.append(Column(title="in all, s", value=_search_s))
    return Table(
        name="search-costs",
        caption="What each search cost",
        columns=columns,
        items=result.methods,
        own=result.method,
    )


def subgraph_table(table: SubgraphTable) -> Table:
    """List the tasks of a plan, slowest first, with the steps by which their groups are pruned."""
    names = [subgraph.name for subgraph in table.network.subgraphs]
    groups = [group.name for group in table.network.groups]

    def listed(texts: list[str], positions: tuple[int, ...]) -> str:
        return ", ".join(texts[at] for at in positions) or NOTHING

    columns = [
        Column(title="layers", value=lambda r: listed(names, r.subgraphs), is_prose=True),
        Column(title="operator", value=_operator),
        Column(title="weight", value=lambda r: r.weight),
        Column(title="channels", value=_channels),
        Column(
            title="map",
            value=lambda r: f"{r.workload.operator.height}x{r.workload.operator.height}",
        ),
        Column(title="µs", value=lambda r: r.latency_s, digits=1, scale=1e6),
        Column(title="share, %", value=lambda r: r.total_s / table.latency_s, scale=100),
        Column(title="tile factors", value=lambda r: "x".join(map(str, r.tile_factors)) or NOTHING),
        Column(title="step", value=lambda r: listed([str(s) for s in table.steps], r.groups)),
        Column(title="groups", value=lambda r: listed(groups, r.groups), is_prose=True),
    ]
    total_ms = table.latency_s * 1e3
    return Table(
        name="subgraphs",
        caption=f"Subgraph table of {table.network.name}: {total_ms:.3f} ms estimated",
        columns=columns,
        items=sorted(table.rows, key=lambda row: -row.total_s),
    )


def front_table(points: Sequence[FrontPoint], accuracy: str = "test accuracy") -> Table:
    """Compare the networks of a front, the dense one first.

    Args:
        points: the dense network first.
        accuracy: what it is, see `accuracy_on`.
    """
    is_estimate = points[0].latency_ci_ms is None
    columns = [
        Column(title="method", value=lambda p: p.method),
        Column(title="floor", value=lambda p: "" if p.floor is None else f"{p.floor:+g}"),
        Column(title="latency, ms", value=_front_latency, digits=3, has_interval=True),
        Column(title="speed-up", value=_front_speedup, digits=2, has_interval=True),
        Column(
            title=f"{accuracy}, %",
            value=lambda p: Interval(*p.accuracy_test),
            digits=2,
            scale=100,
            has_interval=True,
        ),
        Column(
            title="gained, points",
            value=lambda p: None if p.floor is None else Interval(*p.gained_test),
            digits=2,
            scale=100,
            has_interval=True,
            is_signed=True,
        ),
        Column(title="parameters, k", value=lambda p: p.n_params, digits=1, scale=1e-3),
        Column(title="fresh trials", value=lambda p: p.cost.get("fresh_trials")),
        Column(title="accuracy evaluations", value=lambda p: p.cost.get("accuracy_evaluations")),
    ]
    caption = "Accuracy-latency front"
    return Table(
        name="front",
        caption=f"{caption}: estimates, nothing was timed" if is_estimate else caption,
        columns=columns,
        items=points,
    )


def _front_latency(point: FrontPoint) -> Value:
    if point.latency_ci_ms is None:
        return point.shown_ms
    return Interval(point.shown_ms, *point.latency_ci_ms)


def _front_speedup(point: FrontPoint) -> Value:
    return 1.0 if point.floor is None else Interval(*point.speedup)


def dense_note(dense: DenseFigures, shown_on: str = "test images") -> str:
    """Say from which dense network the floor is counted; empty where there is one alone.

    Args:
        dense: figures of both.
        shown_on: images of these figures.
    """
    if dense.finetuned is None:
        return ""
    gain = dense.finetuned.accuracy_test - dense.given.accuracy_test
    which = {
        "given": "as it was given",
        "finetuned": "after the full fine-tune that pruned networks get",
    }
    return (
        f"a relative floor is counted from the dense network {which[dense.floor_from]}; the "
        f"fine-tune changes it by {100 * gain:+.2f} points on {shown_on}"
    )


def loop_note(own_loop: OwnLoop | None) -> str:
    """Say that functions of the user's trained and judged, and what that leaves unsure."""
    if own_loop is None:
        return ""
    opening = f"Functions of your own, {own_loop.name}, trained and judged all networks."
    return " ".join([opening, *own_loop.caveats])


def noise_note(result: Result) -> str:
    """Say which differences are noise, or what the estimates rest on; empty where unknown."""
    if result.is_estimate:
        return (
            f"latencies are estimates, sums of tasks, {result.latency_source}: "
            "nothing was built or timed in this run"
        )
    if result.noise_floor is None:
        return ""
    return (
        f"noise floor: +-{result.noise_floor:.1%} (the dense network against itself, in the same "
        "rounds): differences below it are not called a gain"
    )


def agreement_note(result: Result) -> str:
    """Say how well the compiled networks agree with torch; empty where that is not known."""
    stated = [f.compiled for f in (result.reference, *(m.pruned for m in result.methods))]
    agreements = [agreement for agreement in stated if agreement is not None]
    if not agreements:
        return ""
    worst = max(agreements, key=lambda agreement: agreement.relative_difference)
    note = (
        f"compiled networks were compared with torch on {worst.n_images} images: their answers are "
        f"at most {worst.relative_difference:.2g} of the spread of the answers apart"
    )
    return f"{note}. {result.compiled_note}" if result.compiled_note else note


def prediction_note(result: Result) -> str:
    """Say how much of each search's estimates was predicted; empty where all was measured."""
    shares = [
        f"{m.predicted_share:.0%} of {m.method}'s" for m in result.methods if m.predicted_share
    ]
    if not shares:
        return ""
    return (
        f"estimates on the way: {', '.join(shares)} were predicted, the rest measured; "
        "the latencies of the networks above are all measured"
    )


def accuracy_on(word: str, shown_on: str) -> str:
    """Name an accuracy, and the images that it is of.

    Args:
        word: what it is, see `Result.accuracy_word`.
        shown_on: images, see `Result.shown_on`.
    """
    return f"test {word}" if shown_on == "test images" else f"{word} on {shown_on}"


def _title(result: Result) -> str:
    title = f"{result.model} on {result.data}, {result.device}, floor {result.floor:+.3f}"
    if result.labels == "teacher":
        title += ", labels by the dense network"
    if result.own_loop is not None:
        title += f", trained and judged by {result.own_loop.name}"
    if result.fast:
        title += " (--effort fast)"
    return f"{title}: estimates, nothing was timed" if result.is_estimate else title


def _latency(network: _Network) -> Value:
    figures = network.figures
    if figures.latency_ci_ms is None:
        return figures.shown_ms
    return Interval(figures.shown_ms, *figures.latency_ci_ms)


def _speedup(result: Result, network: _Network) -> Value:
    method = network.method
    if method is None:
        return 1.0
    if not result.has_gain(method):
        return f"{NO_GAIN} ({method.speedup:.2f})"
    return Interval(method.speedup, *method.speedup_ci)


def _test_accuracy(network: _Network) -> Interval:
    return Interval(network.figures.accuracy_test, *network.figures.accuracy_test_ci)


def _gate_bound(network: _Network) -> float | None:
    return network.method.gate["lower_bound"] if network.method else None


def _error(network: _Network) -> float | None:
    return network.figures.estimate_error_ratio


def _cost(name: str, method: MethodResult) -> float:
    return method.cost.get(name, 0.0)


def _search_s(method: MethodResult) -> float:
    return sum(_cost(name, method) for name in _COSTS if name.endswith("_s"))


def _operator(row: TaskRow) -> str:
    operator = row.workload.operator
    text = operator.name
    if text in ("conv2d", "depthwise"):
        text += f" {operator.kernel}x{operator.kernel}"
    return f"{text}/{operator.stride}" if operator.stride > 1 else text


def _channels(row: TaskRow) -> str:
    return f"{row.workload.channels_in} -> {row.workload.channels_out}"
