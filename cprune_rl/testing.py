"""Small public test doubles, and the conformance suites of the contracts.

Whoever writes a device, a cost store, an accuracy oracle or a searcher of their own can run the same
checks that this project runs over its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cprune_rl.agents.searcher import Budget, Searcher, SearchResult
from cprune_rl.contracts import Accuracy, LossCurves, Measurement, Spending, TaskCost
from cprune_rl.cost_cache.store import CostStore, StoredTrial, Tuning
from cprune_rl.envs.problem import Problem
from cprune_rl.table import Extent, Group, Network, OperatorKind, Plan, Subgraph, Template, Workload

__all__ = ["FailingCosts", "FormulaCosts", "FormulaOracle", "check_cost_store", "check_searcher", "toy_network", "toy_problem"]


def toy_network(widths: Sequence[int] = (16, 32, 32), name: str = "toy") -> Network:
    """A chain of 3x3 convolutions and a linear layer, as lowering would describe it.

    Args:
        widths: channels of each convolution; each is a group of its own.
        name: of the network.
    """
    groups = tuple(Group(f"conv{i}", w, max(1, math.ceil(w * 0.2)), (f"conv{i}",)) for i, w in enumerate(widths))
    subgraphs = []
    previous = Extent(3)
    for i, group in enumerate(groups):
        out = Extent(0, ((group.name, 1),))
        template = Template(f"conv3x3|1x{{0}}x8x8,{{1}}x{{0}}x3x3->{i % 2}", f"conv3x3/{i % 2}", OperatorKind("conv2d", 3, 1, 8), 9 * 64)
        subgraphs.append(Subgraph(group.name, (group.name,), template, (previous, out), previous, out, (group.name,)))
        previous = out
    dense = Template("dense|1x{0},10x{0}", "dense", OperatorKind("dense", 1, 1, 1), 1)
    subgraphs.append(Subgraph("fc", ("fc",), dense, (previous,), previous, Extent(10), ()))
    return Network(name, groups, tuple(subgraphs))


class FormulaCosts:
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
        factors = (workload.channels_out // 4, 4) if workload.channels_out % 4 == 0 else (1, workload.channels_out)
        return TaskCost(1e-6 + 1e-9 * workload.macs / max(workload.channels_out, 1) * vectors * 8, factors)


class FailingCosts(FormulaCosts):
    """A `FormulaCosts` on which every plan but the dense one fails to run."""

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Costs with an error, except of the dense plan."""
        costs = super().measure(plan)
        return costs if plan == self._network.dense else [replace(c, latency_s=math.inf, error="crashed") for c in costs]


class FormulaOracle:
    """An `AccuracyOracle` with a formula: each group loses `scale * (1 - kept)^2`."""

    def __init__(self, network: Network, dense_accuracy: float = 0.95, scale: float = 0.05) -> None:
        self._network, self._dense, self._scale = network, dense_accuracy, scale
        self._known: dict[Plan, float] = {}
        self.spending = Spending()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Counts one evaluation for each plan it has not met."""
        if plan not in self._known:
            kept = np.array(plan.widths) / np.array(self._network.dense.widths)
            self._known[plan] = self._dense - float(self._scale * ((1 - kept) ** 2).sum())
            self.spending.accuracy_evaluations += 1
        return Accuracy(self._known[plan], 0.0, 1000)


def toy_problem(widths: Sequence[int] = (16, 32, 32), drop: float = 0.02, costs: Callable[[Network], FormulaCosts] = FormulaCosts) -> Problem:
    """A problem that is solved in milliseconds.

    Args:
        widths: see `toy_network`.
        drop: accuracy that may be lost.
        costs: makes the source of latencies.
    """
    network = toy_network(widths)
    n_groups = len(network.groups)
    curves = LossCurves(np.full(n_groups, 0.05), np.full(n_groups, 2.0))
    return Problem("toy", network, costs(network), FormulaOracle(network), curves, 0.95, 0.95 - drop)


def check_cost_store(open_store: Callable[[], CostStore]) -> None:
    """Conformance suite of `CostStore`.

    Args:
        open_store: opens the same storage each time it is called.
    """
    store = open_store()
    good = StoredTrial("conv", "p1", "[1]", Measurement((2e-3, 1e-3, 3e-3), None, 5e-4))
    bad = StoredTrial("conv", "p2", "[2]", Measurement(error="crashed"))
    fast = StoredTrial("conv", "p3", "[3]", Measurement((5e-4,)))
    store.add_trials("c", [good, bad])
    store.add_trials("c", [fast, good])
    store.add_trials("c", [])
    assert store.trials("c", "conv") == [fast, good, bad], "fastest first, failures last, nothing twice"
    assert store.trials("other", "conv") == [], "contexts are apart"
    assert store.tuned("c", "conv", "r") is None
    store.mark_tuned("c", "conv", "r", Tuning(("p1", "p2"), 1.5))
    found = store.tuned("c", "conv", "r")
    assert found is not None
    assert (found.programs, found.seconds, found.created > 0) == (("p1", "p2"), 1.5, True)
    assert store.accuracy("k") is None
    store.put_accuracy("k", Accuracy(0.5, 0.01, 100, 2.0))
    store.put_accuracy("k", Accuracy(0.9))
    answer = store.accuracy("k")
    assert answer is not None
    assert answer[0] == Accuracy(0.5, 0.01, 100, 2.0), "the first answer stays"
    store.close()
    store.close()
    again = open_store()
    assert again.trials("c", "conv") == [fast, good, bad], "what was committed is there when opened again"
    again.close()


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
    assert all(a.accuracy >= solved.floor for a in result.accepted), "no accepted plan is below the floor"
    assert result.best.latency_s <= result.accepted[0].latency_s
    assert result.cost["fresh_trials"] == solved.latency.spending.fresh_trials
    assert result.cost["accuracy_evaluations"] == solved.oracle.spending.accuracy_evaluations
    assert make().search(problem(), Budget()).accepted == result.accepted, "same problem, same plans"
    limited = make().search(problem(), Budget(accuracy_evaluations=2))
    assert limited.cost["accuracy_evaluations"] <= 2, "a spent budget ends the search"
    assert SearchResult.from_json(result.to_json()) == result
    return result
