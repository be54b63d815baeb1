"""Checks what a run folder claims, in a fresh process.

Networks are rebuilt from their files, judged again, run, and timed beside the dense one. What a
search cost is history, and so are the figures of rivals whose networks were not kept. A run on a
recording has no library and no measured latency: its estimates are added up again, and the rest is
said not to be checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.comparison_images import spread_images
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.final_gate import GateCriterion, difference_interval, judge
from cprune_rl.accuracy.training import correct_predictions, evaluate
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.check import Check
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.output_agreement import compare_answers
from cprune_rl.core.result import Result, accuracy_word
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.errors import PlanError
from cprune_rl.models.answers import torch_answers
from cprune_rl.models.exported import read_exported
from cprune_rl.models.weights import network_hash
from cprune_rl.pruning.scheme_masks import satisfies_scheme
from cprune_rl.pruning.surgery import count_parameters
from cprune_rl.validation.network_files import format_checks
from cprune_rl.validation.stated import StatedNetwork, StatedRun, read_run

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.base import RpcDevice

__all__ = ["export_checks", "gain_holds", "validate_run"]

_ACCURACY_TOLERANCE = 5e-4
_INTERVAL_TOLERANCE = 1e-3  # of the ends of an interval of accuracies
_N_ROUNDS = 40  # of timing in turns
_DRIFT = 0.10  # how far a speed-up may be from the stated one at another hour
_NOT_CHECKED = "not checked: recorded device"
_OWN_LOOP = "not checked: functions given in Python judged it"

Correct = NDArray[np.bool_]


def validate_run(folder: Path) -> list[Check]:
    """Check what a run with one floor, or with several, claims of its networks.

    Raises:
        CPruneError: the folder holds no finished run, a file of it is damaged, or its device is
            gone.
    """
    run = read_run(folder)
    with contextlib.nullcontext() if run.is_estimate else open_device(run.device) as device:
        checks = [*_size_checks(run), *_judged_checks(run)]
        images = spread_images(run.inputs)
        if run.result is not None:
            exported = {"model.pt2": run.networks[1].model}
            checks += export_checks(folder, exported, images, None)
        checks += format_checks(run)
        if device is None:
            checks += _estimate_checks(run)
        else:
            libraries = {network.library: network.model for network in run.networks}
            checks += export_checks(folder, libraries, images, device)
            checks += _stated_agreement_checks(run)
            checks += _speed_checks(run, device)
    return checks


def _size_checks(run: StatedRun) -> Iterator[Check]:
    for network in run.networks:
        n_params = count_parameters(network.model, network.schemes)
        yield Check(
            f"{network.name}: {network.n_params} parameters",
            str(n_params),
            n_params == network.n_params,
        )
        if network.macs is not None:
            described = open_recorded(str(run.folder / "problem.json")).network
            macs = described.macs(_plan(described, network))
            yield Check(f"{network.name}: {network.macs} MACs", str(macs), macs == network.macs)
        layers = dict(network.model.named_modules())
        for layer, text in network.schemes:
            fits = satisfies_scheme(layers[layer].weight, Scheme.parse(text))
            yield Check(
                f"{network.name}: {layer} is pruned as {text}",
                "each block keeps so many entries" if fits else "a block keeps more entries",
                fits,
            )


def _plan(described: Network, network: StatedNetwork) -> Plan:
    if network.plan_file is None:
        return described.dense
    kept = network.plan_file.kept
    if unknown := [group.name for group in described.groups if group.name not in kept]:
        raise PlanError(
            f"problem.json has the group {unknown[0][:60]!r}, plan.json has not: "
            "they are of different networks"
        )
    return Plan(tuple(len(kept[group.name]) for group in described.groups), network.schemes)


def _judged_checks(run: StatedRun) -> Iterator[Check]:
    """Judge the networks again, where the images are here."""
    if run.images is not None:
        yield from _accuracy_checks(run, run.images)
        yield from _dense_checks(run, run.images)
        return
    for network in run.networks:
        claim = f"{network.name}: test accuracy {network.accuracy_test:.4f}"
        if network.floor is not None:
            claim += f", the gate {'passed' if network.gate['passed'] else 'refused'} it"
        yield Check(claim, _OWN_LOOP, None)


def _accuracy_checks(run: StatedRun, images: ImageData) -> Iterator[Check]:
    word = accuracy_word("teacher" if images.is_agreement else "given")
    dense_test = correct_predictions(run.dense.model, images.test)
    dense_gate = correct_predictions(run.dense.model, images.gate)
    for network in run.networks:
        test = correct_predictions(network.model, images.test)
        accuracy = float(test.mean())
        yield Check(
            f"{network.name}: test {word} {network.accuracy_test:.4f}",
            f"{accuracy:.4f}",
            math.isclose(accuracy, network.accuracy_test, abs_tol=_ACCURACY_TOLERANCE),
        )
        if network.gained is not None:
            yield _gained_check(network, difference_interval(test, dense_test))
        if network.floor is not None:
            correct = correct_predictions(network.model, images.gate)
            is_dense = network_hash(network.model) == network_hash(run.dense.model)
            yield _gate_check(network, dense_gate, correct, is_dense=is_dense)
    if run.result is not None:
        yield from _floor_checks(run.result, dense_test, test)


def _dense_checks(run: StatedRun, images: ImageData) -> Iterator[Check]:
    """Judge the other dense network, and compare both where the run chose the better one."""
    both = run.both_dense
    if both is None:
        return
    is_given = both.figures.floor_from == "finetuned"
    stated = both.figures.given if is_given else both.figures.finetuned
    assert stated is not None, "read where both are stated"
    accuracy = evaluate(both.other, images.test)
    yield Check(
        f"dense, {'as it was given' if is_given else 'fine-tuned'}: test accuracy "
        f"{stated.accuracy_test:.4f}",
        f"{accuracy:.4f}",
        math.isclose(accuracy, stated.accuracy_test, abs_tol=_ACCURACY_TOLERANCE),
    )
    if not both.is_chosen:
        return
    reference = evaluate(run.dense.model, images.search)
    other = evaluate(both.other, images.search)
    which = "the fine-tuned" if is_given else "the given"
    yield Check(
        f"the floor is counted from {which} dense network, the better one on the search images",
        f"{reference:.4f} against {other:.4f}",
        reference > other - _ACCURACY_TOLERANCE,
    )


def _gained_check(network: StatedNetwork, gained: Interval) -> Check:
    stated = network.gained
    assert stated is not None, "asked for where it is stated"
    ends = zip(_ends(stated), _ends(gained), strict=True)
    agrees = all(math.isclose(a, b, abs_tol=_INTERVAL_TOLERANCE) for a, b in ends)
    claim = f"{network.name}: gained {_points(stated)} on the same images"
    return Check(claim, _points(gained), agrees)


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _points(gained: Interval) -> str:
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*_ends(gained))


def _gate_check(
    network: StatedNetwork, dense_correct: Correct, correct: Correct, *, is_dense: bool
) -> Check:
    assert network.floor is not None, "asked for where there is one"
    floor = resolve_floor(network.floor, float(dense_correct.mean()), may_exceed=True)
    criterion = GateCriterion(
        floor=floor,
        is_absolute=network.floor > 0,
        n_looks=int(network.gate["n_looks"]),
        risk=float(network.gate["risk"]),
    )
    verdict = judge(dense_correct, correct, criterion, is_dense=is_dense)
    stated = float(network.gate["lower_bound"])
    passed = network.gate["passed"]
    return Check(
        f"{network.name}: the gate {'passed' if passed else 'refused'} it, "
        f"lower bound {stated:.4f}, floor {floor:.4f}",
        f"{verdict.lower_bound:.4f}",
        verdict.passed == passed
        and math.isclose(verdict.lower_bound, stated, abs_tol=_ACCURACY_TOLERANCE),
    )


def _floor_checks(result: Result, dense_correct: Correct, correct: Correct) -> Iterator[Check]:
    """Compare the floor with the accuracy on test images, which no search has seen."""
    floor = resolve_floor(result.floor, result.reference.accuracy_test, may_exceed=True)
    # The gate's bound for wrong answers: the fewest errors that chance allows.
    criterion = GateCriterion(floor=1 - floor, is_absolute=result.floor > 0)
    wrong = judge(~dense_correct, ~correct, criterion)
    accuracy = 1 - wrong.accuracy
    best = 1 - wrong.lower_bound
    is_said_to_hold = result.main.pruned.accuracy_test >= floor
    holds = "holds" if is_said_to_hold else "does not hold"
    yield Check(
        f"the floor {floor:.4f} {holds} on test images",
        f"{accuracy:.4f}",
        (accuracy >= floor) == is_said_to_hold,
    )
    yield Check(
        f"test images do not refute the floor {floor:.4f}",
        f"{accuracy:.4f}, at best {best:.4f}",
        best >= floor,
    )


def export_checks(
    folder: Path,
    exported: Mapping[str, nn.Module],
    images: NDArray[np.float32],
    device: RpcDevice | None,
) -> Iterator[Check]:
    """Run exported networks on images, and compare them with torch.

    Args:
        exported: networks by the file in the folder that they were exported to.
        images: `(n, channels, height, width)`.
        device: that libraries were compiled for; None for files of `torch.export`.
    """
    for name, model in exported.items():
        # `correct_predictions` leaves weights channels last; libraries were built from others.
        contiguous = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        if device is None:
            answers = torch_answers(read_exported(folder / name).module(), images)
        else:
            from cprune_rl.compiler.deploy.run_networks import run_on_device

            answers = run_on_device(device, folder / name, images)
        agreement = compare_answers(torch_answers(contiguous, images), answers)
        yield Check(f"{name} computes what the network computes", str(agreement), agreement.holds)


def _stated_agreement_checks(run: StatedRun) -> Iterator[Check]:
    """Look at what a run states of its compiled networks; an earlier version stated nothing."""
    for network in run.networks:
        if network.compiled is not None:
            yield Check(
                f"{network.name}: the run compared {network.library} with torch before it stated "
                "a figure",
                str(network.compiled),
                network.compiled.holds,
            )


def _estimate_checks(run: StatedRun) -> Iterator[Check]:
    """Add the recorded tasks of each network up again."""
    spec = parse_device(run.device)
    seed = spec.noise_seed if isinstance(spec, RecordedSpec) else None
    problem = open_recorded(str(run.folder / "problem.json"), noise_seed=seed)
    estimates_ms = [
        problem.measured_s(_plan(problem.network, network)) * 1e3 for network in run.networks
    ]
    for network, estimate_ms in zip(run.networks, estimates_ms, strict=True):
        yield Check(
            f"{network.name}: estimate {network.shown_ms:.4f} ms",
            f"{estimate_ms:.4f} ms by the recorded tasks",
            math.isclose(network.shown_ms, estimate_ms, rel_tol=1e-3),
        )
        if network.speedup is not None:
            ratio = estimates_ms[0] / estimate_ms
            yield Check(
                f"{network.name}: estimated speed-up {network.speedup.value:.2f} is the ratio "
                "of the estimates, inside its interval",
                f"{ratio:.2f}",
                _is_inside(network.speedup, ratio),
            )
    for network in run.networks:
        yield Check(f"{network.library}, the compiled network", _NOT_CHECKED, None)
    yield Check("latency of the whole networks", _NOT_CHECKED, None)


def _is_inside(speedup: Interval, ratio: float) -> bool:
    """Whether a speed-up is a ratio within 1 %, and inside its own interval."""
    is_ratio = math.isclose(ratio, speedup.value, rel_tol=0.01)
    return is_ratio and speedup.low <= speedup.value <= speedup.high


def _speed_checks(run: StatedRun, device: RpcDevice) -> Iterator[Check]:
    from cprune_rl.compiler.deploy.time_networks import Rounds, compare_libraries

    result = run.result
    if result is not None:
        speedup = run.networks[1].speedup
        assert speedup is not None, "every network but the dense one has one"
        if speedup.value == 1.0:
            same = result.dense.macs == result.main.pruned.macs
            found = f"MACs {'agree' if same else 'differ'}"
            yield Check("the result is the dense network", found, same)
            return
        ratio = result.dense.shown_ms / result.main.pruned.shown_ms
        yield Check(
            f"speed-up {speedup.value:.2f} is the ratio of the latencies, inside its interval",
            f"{ratio:.2f}",
            _is_inside(speedup, ratio),
        )
    libraries = {network.name: run.folder / network.library for network in run.networks}
    shape = run.plan_file.input_shape
    timed = compare_libraries(device, libraries, shape, rounds=Rounds(_N_ROUNDS))
    for network in run.networks[1:]:
        stated = network.speedup
        assert stated is not None, "every network but the dense one has one"
        now = timed.speedup[network.name]
        is_low_enough = now.low <= stated.high * (1 + _DRIFT)
        yield Check(
            f"{network.name}: speed-up {stated.value:.2f}",
            f"{now.value:.2f} [{now.low:.2f}, {now.high:.2f}] measured now",
            is_low_enough and now.high >= stated.low * (1 - _DRIFT),
        )
    if result is not None and result.noise_floor is not None:
        yield _gain_check(result, timed.speedup[run.networks[1].name], timed.noise_floor)


def _gain_check(result: Result, found: Interval, noise_floor: float) -> Check:
    has_gain = result.has_gain(result.main)
    holds = gain_holds(has_gain, result.main.speedup_ci[1], found)
    now = f"{found.value:.2f}, noise floor +-{noise_floor:.1%} now"
    if holds is None:
        now = f"not told: {now}, and another hour can change as much"
    beyond = "is beyond" if has_gain else "is not beyond"
    claim = (
        f"speed-up {result.main.speedup:.2f} {beyond} the noise floor, +-{result.noise_floor:.1%}"
    )
    return Check(claim, now, holds)


def gain_holds(has_gain: bool, stated_high: float, found: Interval) -> bool | None:
    """Say whether a second timing agrees that there is a gain, or none.

    Args:
        has_gain: what the run states.
        stated_high: upper end of the speed-up that it states.
        found: the speed-up at another hour.

    Returns:
        None where a gain is gone but so small that the drift between hours can have taken it: that
        neither confirms nor refutes it.
    """
    if not has_gain:
        return found.low <= stated_high * (1 + _DRIFT)
    if found.high >= 1:
        return True
    return None if found.high * (1 + _DRIFT) >= 1 else False
