"""Small public test doubles, and a conformance suite for each protocol.

Whoever writes a device, a cost store, a source of latencies or a searcher can run the checks that
this project runs over its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.protocols import (
    Accuracy,
    Artifact,
    Device,
    LatencySource,
    Measurement,
    Spending,
    SupportsTrialCount,
    TaskCost,
    least_trials_needed,
)
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import BlockSparse, Extent, OperatorKind, Subgraph, Template, Workload
from cprune_rl.cost_cache.store import CostStore, StoredTrial, Tuning
from cprune_rl.envs.problem import Problem

__all__ = [
    "AnalyticLatency",
    "AnalyticOracle",
    "DriftingMachine",
    "FailingLatency",
    "check_cost_store",
    "check_device",
    "check_latency_source",
    "check_searcher",
    "toy_network",
    "toy_problem",
]


def toy_network(widths: Sequence[int] = (16, 32, 32), name: str = "toy") -> Network:
    """A chain of 3x3 convolutions and a linear layer, as lowering would describe it.

    A scheme may prune each convolution but the first.

    Args:
        widths: channels of each convolution; each is a group of its own.
        name: of the network.
    """
    groups = tuple(
        Group(name=f"conv{i}", channels=w, minimum=max(1, math.ceil(w * 0.2)), layers=(f"conv{i}",))
        for i, w in enumerate(widths)
    )
    subgraphs = []
    previous = Extent(3)
    for i, group in enumerate(groups):
        out = Extent(0, ((group.name, 1),))
        subgraphs.append(_toy_convolution(i, previous, out))
        previous = out
    operator = OperatorKind(name="dense", kernel=1, stride=1, height=1)
    subgraphs.append(
        Subgraph(
            name="fc",
            layers=("fc",),
            template=Template(text="dense|1x{0},10x{0}", family="dense", operator=operator, macs=1),
            extents=(previous,),
            channels_in=previous,
            channels_out=Extent(10),
            writes=(),
        )
    )
    return Network(name=name, groups=groups, subgraphs=tuple(subgraphs))


def _toy_convolution(number: int, channels_in: Extent, channels_out: Extent) -> Subgraph:
    layer = f"conv{number}"
    template = Template(
        text=f"conv3x3|1x{{0}}x8x8,{{1}}x{{0}}x3x3->{number % 2}",
        family=f"conv3x3/{number % 2}",
        operator=OperatorKind(name="conv2d", kernel=3, stride=1, height=8),
        macs=9 * 64,
    )
    pruned = replace(template, text=f"blocked {template.text}", family=f"blocked {template.family}")
    return Subgraph(
        name=layer,
        layers=(layer,),
        template=template,
        extents=(channels_in, channels_out),
        channels_in=channels_in,
        channels_out=channels_out,
        writes=(layer,),
        block_sparse=BlockSparse(layer=layer, template=pruned, entries=9) if number else None,
    )


class AnalyticLatency:
    """A `LatencySource` with a formula for a device: work done in vectors of eight channels."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._measured: set[str] = set()
        self.spending = Spending()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Counts one fresh trial for each task that was not measured before."""
        workloads = self._network.workloads(plan)
        fresh = {w.key for w in workloads} - self._measured
        self._measured |= fresh
        self.spending.fresh_trials += len(fresh)
        return self.predict(workloads)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """The formula."""
        return [self._cost(w) for w in workloads]

    @staticmethod
    def _cost(workload: Workload) -> TaskCost:
        n_out = workload.channels_out
        padded = math.ceil(n_out / 8) * 8
        return TaskCost(
            latency_s=1e-6 + 1e-9 * workload.macs / max(n_out, 1) * padded,
            tile_factors=(n_out // 4, 4) if n_out % 4 == 0 else (1, n_out),
        )


class FailingLatency(AnalyticLatency):
    """An `AnalyticLatency` on which every plan but the dense one fails to run."""

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Costs with an error, except of the dense plan."""
        costs = super().measure(plan)
        if plan == self._network.dense:
            return costs
        return [replace(cost, latency_s=math.inf, error="crashed") for cost in costs]


class AnalyticOracle:
    """An `AccuracyOracle` with a formula.

    Each group loses `scale * (1 - kept)^2`. A layer that a scheme prunes loses 0.3 times as much by
    its density.
    """

    def __init__(self, network: Network, dense_accuracy: float = 0.95, scale: float = 0.05) -> None:
        self._network = network
        self._dense_accuracy = dense_accuracy
        self._scale = scale
        self._values: dict[Plan, float] = {}
        self.spending = Spending()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Counts one evaluation for each plan that was not evaluated before."""
        if plan not in self._values:
            kept = np.array(plan.widths) / np.array(self._network.dense.widths)
            of_groups = float(((1 - kept) ** 2).sum())
            schemes = self._network.schemes(plan).values()
            of_layers = sum((1 - scheme.density) ** 2 for scheme in schemes)
            loss = self._scale * (of_groups + 0.3 * of_layers)
            self._values[plan] = self._dense_accuracy - loss
            self.spending.accuracy_evaluations += 1
        return Accuracy(value=self._values[plan], n_images=1000)

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """The formula for each plan."""
        return [self.accuracy(plan) for plan in plans]


def toy_problem(
    widths: Sequence[int] = (16, 32, 32),
    drop: float = 0.02,
    make_latency: Callable[[Network], LatencySource] = AnalyticLatency,
) -> Problem:
    """A problem that is solved in milliseconds.

    Args:
        widths: of `toy_network`.
        drop: accuracy that may be lost.
        make_latency: makes the source of latencies.
    """
    network = toy_network(widths)
    n_groups = len(network.groups)
    n_layers = len(network.scheme_layers)
    return Problem(
        name="toy",
        network=network,
        latency=make_latency(network),
        oracle=AnalyticOracle(network),
        loss_model=LossModel(
            np.full(n_groups, 0.05), np.full(n_groups, 2.0), np.full(n_layers, 3e-4)
        ),
        dense_accuracy=0.95,
        floor=0.95 - drop,
    )


class DriftingMachine:
    """A machine whose speed follows a script.

    Args:
        factors: how much slower each timing is than the true time, in order; 1 from where it ends.
    """

    def __init__(self, factors: Iterable[float]) -> None:
        self._factors = iter(factors)
        self.n_timed = 0

    def time(self, seconds: float) -> Measurement:
        """Times something that takes this long."""
        self.n_timed += 1
        return Measurement((seconds * next(self._factors, 1.0),))


def check_latency_source(source: LatencySource, network: Network) -> None:
    """Conformance suite of `LatencySource`.

    Args:
        source: that has measured nothing yet.
        network: whose plans it measures; the dense plan and that of half its channels must run.
    """
    for plan in (network.dense, network.uniform(0.5)):
        workloads = network.workloads(plan)
        before = replace(source.spending)
        predictions = source.predict(workloads)
        assert len(predictions) == len(workloads), "one prediction for each workload"
        assert source.predict(workloads) == predictions, "equal workloads, equal predictions"
        assert source.predict([]) == []
        assert source.spending == before, "a prediction spends nothing"
        least = least_trials_needed(source, network, plan)
        costs = source.measure(plan)
        fresh = source.spending.fresh_trials - before.fresh_trials
        assert len(costs) == len(network.subgraphs), "one cost for each subgraph"
        assert all(cost.error is None and 0 < cost.latency_s < math.inf for cost in costs)
        if isinstance(source, SupportsTrialCount):
            assert fresh >= least, "it says beforehand what it takes at least"
        after = replace(source.spending)
        assert source.measure(plan) == costs, "one plan, one answer"
        assert source.spending == after, "nothing is measured twice"
        _check_predictions_of_measured(source, workloads, costs)


def _check_predictions_of_measured(
    source: LatencySource, workloads: Sequence[Workload], costs: Sequence[TaskCost]
) -> None:
    measured: dict[str, list[float]] = {}
    for workload, cost in zip(workloads, costs, strict=True):
        measured.setdefault(workload.key, []).append(cost.latency_s)
    for workload, cost in zip(workloads, source.predict(workloads), strict=True):
        assert cost.latency_s in measured[workload.key], "what was measured is not predicted"


def check_device(
    open_device: Callable[[], Device],
    good: Artifact,
    crashing: Artifact,
    hanging: Artifact,
    arguments: Sequence[NDArray[np.generic]],
    expected: Sequence[NDArray[np.generic]],
) -> None:
    """Conformance suite of `Device`.

    Args:
        open_device: opens the same device each time it is called; a trial that hangs should be
            given up within seconds.
        good: an artifact that runs.
        crashing: one that ends its process.
        hanging: one that does not end.
        arguments: of the good artifact.
        expected: what it gives for them.
    """
    with contextlib.closing(open_device()) as device:
        fingerprint = device.fingerprint
        assert device.name
        assert fingerprint
        assert device.time([]) == []
        before, crashed, between, hung, after = device.time([good, crashing, good, hanging, good])
        for failed in (crashed, hung):
            assert failed.error, "a crash or a hang is a measurement with an error"
            assert failed.samples_s == ()
            assert failed.latency_s == math.inf
        for timed in (before, between, after):
            assert timed.error is None, "a broken artifact costs its own trial and no other"
            assert 0 < timed.latency_s < math.inf
            assert timed.reference_s > 0, "the reference workload is timed around it"
        _check_output(device.run(good, arguments), expected)
        for broken in (crashing, replace(good, path=good.path + ".missing")):
            output = device.run(broken, arguments[: len(broken.shapes)])
            assert isinstance(output, Measurement), (
                "an artifact that cannot run gives an error for a value"
            )
            assert output.error
        assert device.time([good])[0].error is None
        assert device.fingerprint == fingerprint
    device.close()
    with contextlib.closing(open_device()) as again:
        assert again.fingerprint == fingerprint, (
            "what decides a latency does not change with the session"
        )


def _check_output(
    output: Sequence[NDArray[np.generic]] | Measurement, expected: Sequence[NDArray[np.generic]]
) -> None:
    assert not isinstance(output, Measurement), "an artifact that runs gives its output"
    assert len(output) == len(expected)
    for one, other in zip(output, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-5
        )


def check_cost_store(open_store: Callable[[], CostStore], is_kept: bool = True) -> None:
    """Conformance suite of `CostStore`.

    Args:
        open_store: opens the same storage each time it is called; empty at first.
        is_kept: what was written is there when it is opened again; False for a storage that ends
            with its store.
    """
    store = open_store()
    good = _trial("p1", Measurement((2e-3, 1e-3, 3e-3), None, 5e-4))
    bad = _trial("p2", Measurement(error="crashed"))
    fast = _trial("p3", Measurement((5e-4,)))
    assert store.contexts() == []
    store.add_trials("c", [bad, good])
    store.add_trials("c", [fast, replace(good, measurement=Measurement((1.0,)))])
    store.add_trials("c", [])
    assert store.trials("c", "conv") == [fast, good, bad], (
        "fastest first, failures last, nothing twice, the first answer stays"
    )
    assert store.trials("other", "conv") == [], "contexts are apart"
    assert all(t.provenance is not None and t.created > 0 for t in store.trials("c", "conv")), (
        "each trial says who measured it, and when"
    )
    _check_tunings(store)
    _check_accuracies(store)
    _check_descriptions(store, good, fast)
    (summary,) = store.contexts()
    assert summary.context == "c"
    assert (summary.n_workloads, summary.n_trials, summary.n_failures) == (2, 6, 2)
    assert 0 < summary.first <= summary.last
    store.close()
    store.close()
    if is_kept:
        again = open_store()
        assert again.trials("c", "conv") == [fast, good, bad], (
            "what was committed is there when opened again"
        )
        assert again.contexts() == [summary]
        again.close()


def _trial(trace_digest: str, measurement: Measurement, workload: str = "conv") -> StoredTrial:
    return StoredTrial(
        workload=workload,
        trace_digest=trace_digest,
        trace_json=f'["{trace_digest}"]',
        measurement=measurement,
    )


def _check_tunings(store: CostStore) -> None:
    assert store.tuned("c", "conv", "r") is None
    store.mark_tuned("c", "conv", Tuning(key="r", trace_digests=("p1", "p2"), seconds=1.5))
    store.mark_tuned("c", "conv", Tuning(key="r", trace_digests=("p1",), seconds=9.0))
    tuning = store.tuned("c", "conv", "r")
    assert tuning is not None
    assert tuning.trace_digests == ("p1", "p2"), "the first answer stays"
    assert tuning.seconds == 1.5
    assert tuning.created > 0
    store.mark_tuned("c", "conv", Tuning(key="gone", trace_digests=("p1", "removed"), seconds=1.5))
    assert store.tuned("c", "conv", "gone") is None, "a tuning claims no schedule without a trial"
    assert store.tuned("other", "conv", "r") is None
    assert store.tuned("c", "other", "r") is None


def _check_accuracies(store: CostStore) -> None:
    accuracy = Accuracy(value=0.5, standard_error=0.01, n_images=100, cost_s=2.0)
    assert store.accuracy("k") is None
    store.put_accuracy("k", accuracy)
    store.put_accuracy("k", Accuracy(value=0.9))
    stored = store.accuracy("k")
    assert stored is not None
    assert stored[0] == accuracy, "the first answer stays"
    assert stored[1] > 0


def _check_descriptions(store: CostStore, good: StoredTrial, fast: StoredTrial) -> None:
    assert store.fastest("c") == [], "what was never described is not given back"
    conv = Workload(
        key="conv",
        family="conv3x3",
        channels_in=3,
        channels_out=8,
        macs=216,
        operator=OperatorKind(name="conv2d", kernel=3, stride=2, height=16),
    )
    long = Workload(
        key="dense" * 2000,
        family="dense",
        channels_in=2**20,
        channels_out=2**20,
        macs=2**40,
        operator=OperatorKind(name="dense"),
    )
    store.describe([])
    store.describe([long, conv, conv, replace(conv, key="untried")])
    store.describe([replace(conv, channels_out=9)])
    failed = _trial("p4", Measurement(error="bad \0 \udc80"), long.key)
    of_long = [replace(trial, workload=long.key) for trial in (good, fast)]
    store.add_trials("c", [*of_long, failed])
    pairs = store.fastest("c")
    assert pairs == [(conv, fast), (long, of_long[1])], (
        "the fastest of each, in the order of keys; the first description stays"
    )
    assert pairs[0][0].operator == conv.operator
    assert store.fastest("c", "dense") == pairs[1:]
    assert store.fastest("c", "none") == store.fastest("other") == []


def check_searcher(make: Callable[[], Searcher], problem: Callable[[], Problem]) -> SearchResult:
    """Conformance suite of `Searcher`.

    Args:
        make: makes the searcher.
        problem: makes the same problem each time, with fresh counters.

    Returns:
        What an unlimited search found.
    """
    solved = problem()
    result = make().search(solved, Budget())
    assert result.accepted[0].plan == solved.network.dense, "the dense plan is always an answer"
    assert all(a.accuracy >= solved.floor for a in result.accepted), (
        "no accepted plan is below the floor"
    )
    assert result.best.latency_s <= result.accepted[0].latency_s
    assert result.cost["fresh_trials"] == solved.latency.spending.fresh_trials
    assert result.cost["accuracy_evaluations"] == solved.oracle.spending.accuracy_evaluations
    assert make().search(problem(), Budget()).accepted == result.accepted, (
        "same problem, same plans"
    )
    limited = make().search(problem(), Budget(accuracy_evaluations=2))
    assert limited.cost["accuracy_evaluations"] <= 2, "a spent budget ends the search"
    assert SearchResult.from_json(result.to_json()) == result
    dense = solved.network.dense
    broken = replace(problem(), latency=FailingLatency(solved.network))
    assert make().search(broken, Budget()).best.plan == dense, (
        "where nothing can be measured the dense plan is the answer"
    )
    strict = replace(problem(), floor=solved.dense_accuracy)
    assert make().search(strict, Budget()).best.plan == dense, "where nothing may be lost, too"
    return result
