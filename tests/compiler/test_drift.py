"""Drift: a machine whose speed changes while it is timed."""

from __future__ import annotations

import pytest

from cprune_rl.compiler.devices.drift import DriftMonitor
from cprune_rl.core.protocols import Measurement
from cprune_rl.testing import DriftingMachine


def test_trials_between_drifted_reference_timings_are_timed_again() -> None:
    # A reference timing, two trials, another one; then the machine slows down for one group.
    machine = DriftingMachine([1.0, 1, 1, 1.0, 2, 2, 2.0, 1, 1, 1.0])
    watch = DriftMonitor(lambda: machine.time(1e-4), every=2, max_drift=0.25, max_retimings=3)
    timed = watch.time([lambda: machine.time(5e-3)] * 4)
    assert [m.latency_s for m in timed] == [5e-3] * 4
    assert machine.n_timed == (1 + 2 + 1) + 3 * (2 + 1), (
        "the slow group was timed until both reference timings were steady"
    )
    assert all(m.reference_s == pytest.approx(1e-4) for m in timed)


def test_a_machine_that_stays_slower_becomes_the_new_normal() -> None:
    machine = DriftingMachine([1.0, *[3.0] * 100])
    timed = DriftMonitor(lambda: machine.time(1e-4), every=1, max_retimings=5).time(
        [lambda: machine.time(1e-3)]
    )
    assert machine.n_timed == 1 + 2 * (1 + 1), (
        "one timing at the new speed may be chance, two are not"
    )
    assert timed[0].reference_s == pytest.approx(3e-4)


def test_drift_that_does_not_end_is_not_waited_for() -> None:
    machine = DriftingMachine([1.0, 1, 4.0, 1, 1.0, 1, 4.0, 1, 1.0])
    DriftMonitor(lambda: machine.time(1e-4), every=1, max_retimings=2).time(
        [lambda: machine.time(1e-3)]
    )
    assert machine.n_timed == 1 + (1 + 2) * (1 + 1)


def test_a_trial_that_failed_is_not_tried_again_for_drift() -> None:
    machine = DriftingMachine([1.0, 2.0, *[1.0] * 20])
    calls = []

    def crashes() -> Measurement:
        calls.append(1)
        return Measurement(error="crashed")

    assert DriftMonitor(lambda: machine.time(1e-4)).time([crashes])[0].error == "crashed"
    assert len(calls) == 1


def test_a_reference_that_cannot_be_timed_says_nothing_of_drift() -> None:
    timed = DriftMonitor(lambda: Measurement(error="gone")).time([lambda: Measurement((1.0,))])
    assert timed == [Measurement((1.0,))]
