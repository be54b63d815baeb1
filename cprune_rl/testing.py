"""Small public test doubles, and the conformance suites of the protocols.

Whoever writes a device, a cost store, an accuracy oracle or a searcher of their own can run the
same
checks that this project runs over its own.
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
from cprune_rl.core.protocols import Accuracy, Artifact, Device, Measurement, Spending, TaskCost
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
    "check_searcher",
    "toy_network",
    "toy_problem",
]


def toy_network(widths: Sequence[int] = (16, 32, 32), name: str = "toy") -> Network:
    """A chain of 3x3 convolutions and a linear layer, as lowering would describe it.

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
        template = Template(
            text=f"conv3x3|1x{{0}}x8x8,{{1}}x{{0}}x3x3->{i % 2}",
            family=f"conv3x3/{i % 2}",
            operator=OperatorKind(name="conv2d", kernel=3, stride=1, height=8),
            macs=9 * 64,
        )
        block_sparse = (
            BlockSparse(
                layer=group.name,
                template=Template(
                    text=f"blocked {template.text}",
                    family=f"blocked {template.family}",
                    operator=template.operator,
                    macs=template.macs,
                ),
                entries=9,
            )
            if i
            else None
        )
        subgraphs.append(
            Subgraph(
                name=group.name,
                layers=(group.name,),
                template=template,
                extents=(previous, out),
                channels_in=previous,
                channels_out=out,
                writes=(group.name,),
                block_sparse=block_sparse,
            )
        )
        previous = out
    dense = Template(
        text="dense|1x{0},10x{0}",
        family="dense",
        operator=OperatorKind(name="dense", kernel=1, stride=1, height=1),
        macs=1,
    )
    subgraphs.append(
        Subgraph(
            name="fc",
            layers=("fc",),
            template=dense,
            extents=(previous,),
            channels_in=previous,
            channels_out=Extent(10),
            writes=(),
        )
    )
    return Network(name=name, groups=groups, subgraphs=tuple(subgraphs))


class AnalyticLatency:
    """A `LatencySource` with a formula for a device: work done in vectors of eight channels."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seen: set[str] = set()
        self.spending = Spending()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Counts one fresh trial for each task it has not met."""
        workloads = self._network.workloads(plan)
        fresh = {w.key for w in workloads} - self._seen
        self._seen |= fresh
        self.spending.fresh_trials += len(fresh)
        return self.predict(workloads)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """The formula."""
        return [self._cost(w) for w in workloads]

    @staticmethod
    def _cost(workload: Workload) -> TaskCost:
        vectors = math.ceil(workload.channels_out / 8)
        factors = (
            (workload.channels_out // 4, 4)
            if workload.channels_out % 4 == 0
            else (1, workload.channels_out)
        )
        return TaskCost(
            latency_s=1e-6 + 1e-9 * workload.macs / max(workload.channels_out, 1) * vectors * 8,
            tile_factors=factors,
        )


class FailingLatency(AnalyticLatency):
    """A `AnalyticLatency` on which every plan but the dense one fails to run."""

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Costs with an error, except of the dense plan."""
        costs = super().measure(plan)
        return (
            costs
            if plan == self._network.dense
            else [replace(c, latency_s=math.inf, error="crashed") for c in costs]
        )


class AnalyticOracle:
    """An `AccuracyOracle` with a formula:

    each group loses `scale * (1 - kept)^2`, a layer that is pruned by a scheme 0.3 times as much by
    its density.
    """

    def __init__(self, network: Network, dense_accuracy: float = 0.95, scale: float = 0.05) -> None:
        self._network, self._dense, self._scale = network, dense_accuracy, scale
        self._known: dict[Plan, float] = {}
        self.spending = Spending()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Counts one evaluation for each plan it has not met."""
        if plan not in self._known:
            kept = np.array(plan.widths) / np.array(self._network.dense.widths)
            in_blocks = sum(
                (1 - scheme.density) ** 2 for scheme in self._network.schemes(plan).values()
            )
            self._known[plan] = self._dense - self._scale * (
                float(((1 - kept) ** 2).sum()) + 0.3 * in_blocks
            )
            self.spending.accuracy_evaluations += 1
        return Accuracy(value=self._known[plan], standard_error=0.0, n_images=1000)

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Of each plan."""
        return [self.accuracy(plan) for plan in plans]


def toy_problem(
    widths: Sequence[int] = (16, 32, 32),
    drop: float = 0.02,
    costs: Callable[[Network], AnalyticLatency] = AnalyticLatency,
) -> Problem:
    """A problem that is solved in milliseconds.

    Args:
        widths: see `toy_network`.
        drop: accuracy that may be lost.
        costs: makes the source of latencies.
    """
    network = toy_network(widths)
    n_groups = len(network.groups)
    loss_model = LossModel(
        np.full(n_groups, 0.05), np.full(n_groups, 2.0), np.full(len(network.scheme_layers), 3e-4)
    )
    return Problem(
        name="toy",
        network=network,
        latency=costs(network),
        oracle=AnalyticOracle(network),
        loss_model=loss_model,
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
        good: a program that runs.
        crashing: one that ends its process.
        hanging: one that does not end.
        arguments: of the good program.
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
            assert timed.error is None, "a broken program costs its own trial and no other"
            assert 0 < timed.latency_s < math.inf
            assert timed.reference_s > 0, "the reference workload is timed around it"
        found = device.run(good, arguments)
        assert not isinstance(found, Measurement), "a program that runs gives its output"
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-5
            )
        for broken in (crashing, replace(good, path=good.path + ".missing")):
            answer = device.run(broken, arguments[: len(broken.shapes)])
            assert isinstance(answer, Measurement), (
                "a program that cannot run gives an error for a value"
            )
            assert answer.error
        assert device.time([good])[0].error is None
        assert device.fingerprint == fingerprint
    device.close()
    with contextlib.closing(open_device()) as again:
        assert again.fingerprint == fingerprint, (
            "what decides a latency does not change with the session"
        )


def check_cost_store(open_store: Callable[[], CostStore], is_kept: bool = True) -> None:
    """Conformance suite of `CostStore`.

    Args:
        open_store: opens the same storage each time it is called; empty at first.
        is_kept: what was written is there when it is opened again; False for a storage that ends
            with its store.
    """
    store = open_store()
    good = StoredTrial(
        workload="conv",
        trace_digest="p1",
        trace_json="[1]",
        measurement=Measurement((2e-3, 1e-3, 3e-3), None, 5e-4),
    )
    bad = StoredTrial(
        workload="conv",
        trace_digest="p2",
        trace_json="[2]",
        measurement=Measurement(error="crashed"),
    )
    fast = StoredTrial(
        workload="conv", trace_digest="p3", trace_json="[3]", measurement=Measurement((5e-4,))
    )
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
    assert (summary.context, summary.n_workloads, summary.n_trials, summary.n_failures) == (
        "c",
        2,
        6,
        2,
    )
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


def _check_tunings(store: CostStore) -> None:
    assert store.tuned("c", "conv", "r") is None
    store.mark_tuned("c", "conv", "r", Tuning(("p1", "p2"), 1.5))
    store.mark_tuned("c", "conv", "r", Tuning(("p1",), 9.0))
    found = store.tuned("c", "conv", "r")
    assert found is not None
    assert (found.trace_digests, found.seconds, found.created > 0) == (("p1", "p2"), 1.5, True)
    store.mark_tuned("c", "conv", "gone", Tuning(("p1", "pruned"), 1.5))
    assert store.tuned("c", "conv", "gone") is None, "a tuning claims no program that has no trial"
    assert store.tuned("other", "conv", "r") is None
    assert store.tuned("c", "other", "r") is None


def _check_accuracies(store: CostStore) -> None:
    assert store.accuracy("k") is None
    store.put_accuracy("k", Accuracy(value=0.5, standard_error=0.01, n_images=100, cost_s=2.0))
    store.put_accuracy("k", Accuracy(value=0.9))
    answer = store.accuracy("k")
    assert answer is not None
    assert answer[0] == Accuracy(value=0.5, standard_error=0.01, n_images=100, cost_s=2.0), (
        "the first answer stays"
    )
    assert answer[1] > 0


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
    store.describe(
        [
            long,
            conv,
            conv,
            Workload(
                key="untried",
                family="conv3x3",
                channels_in=3,
                channels_out=8,
                macs=216,
                operator=OperatorKind(name="conv2d"),
            ),
        ]
    )
    store.describe([replace(conv, channels_out=9)])
    store.add_trials(
        "c",
        [
            replace(good, workload=long.key),
            replace(fast, workload=long.key),
            StoredTrial(
                workload=long.key,
                trace_digest="p4",
                trace_json="[4]",
                measurement=Measurement(error="bad \0 \udc80"),
            ),
        ],
    )
    found = store.fastest("c")
    assert found == [(conv, fast), (long, replace(fast, workload=long.key))], (
        "the fastest of each, in the order of keys; the first description stays"
    )
    assert found[0][0].operator == conv.operator
    assert store.fastest("c", "dense") == found[1:]
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
