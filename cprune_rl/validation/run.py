"""Checks a run folder in a fresh process:

rebuilds its network from the files and tests what can be tested.

Sizes, accuracies, the gate, the exported files and the speed-up of the run's own method are
computed again.
What a search cost and the rivals' figures are history: they cannot be told from the files. A run on
a recording has
no library and no measured latency: its estimates are added up again, and the rest is said not to be
checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from cprune_rl.accuracy.data import ImageData, Split, load_data
from cprune_rl.accuracy.final_gate import GateCriterion, judge
from cprune_rl.accuracy.training import correct_predictions
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.check import Check
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Plan
from cprune_rl.core.result import Result
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.errors import ConfigError
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import network_hash
from cprune_rl.pruning.scheme_masks import satisfies_scheme
from cprune_rl.pruning.surgery import PlanFile, count_parameters, load_pruned

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.rpc_device import RpcDevice

__all__ = [
    "DRIFT",
    "N_ROUNDS",
    "TOLERANCE",
    "Check",
    "gain_holds",
    "images_of",
    "logits_of",
    "scheme_checks",
    "validate_run",
]

TOLERANCE = 1e-3
"""Of logits, between compilers."""
N_ROUNDS = 40
"""Of timing in turns."""
_FILES = (
    "config.yaml",
    "command.txt",
    "system.json",
    "problem.json",
    "model.pt2",
    "dense.safetensors",
    "report.html",
)
_LIBRARIES = ("lib.so", "dense.so")
_NOT_CHECKED = "not checked: recorded device"
DRIFT = 0.10
"""How far a speed-up measured at another hour may be from the one stated."""


def validate_run(folder: Path) -> list[Check]:
    """Checks the claims a run makes for its own method.

    Raises:
        CPruneError: the folder holds no finished run, a file of it is damaged, or its device is
            gone.
    """
    result = Result.read(folder / "result.json")
    for name in _FILES if result.is_estimate else (*_FILES, *_LIBRARIES):
        if not (folder / name).exists():
            raise ConfigError(
                f"{folder / name} is missing: the run did not finish; go on with --resume {folder}"
            )
    model, plan = load_pruned(folder)
    dense = build_model(plan.model, plan.n_classes)
    dense.load_state_dict(load_file(folder / "dense.safetensors"))
    dense.eval()
    with contextlib.nullcontext() if result.is_estimate else open_device(result.device) as device:
        return [
            *_shape_checks(folder, result, model, dense, plan),
            *_accuracy_checks(result, model, dense),
            *_export_checks(folder, plan, model, dense, device),
            *(
                _estimate_checks(folder, result, plan)
                if device is None
                else _speed_checks(folder, result, plan, device)
            ),
        ]


def images_of(data: str, fast: bool, top: int) -> ImageData:
    """The images that a run was judged on.

    Args:
        data: as `--data` names them.
        fast: whether the run was one of `--fast`.
        top: see `RunConfig.top`.
    """
    found = load_data(data, fast)
    return found.with_top(top) if top > 1 else found


@torch.no_grad()
def logits_of(model: nn.Module, image: torch.Tensor) -> NDArray[np.float32]:
    """What torch computes on one image, with the weights' layout that libraries were built from:

    `correct_predictions` leaves them channels last.
    """
    logits = model.to(memory_format=torch.contiguous_format)(image).numpy()  # type: ignore[call-overload]  # torch's stub lacks this form
    return np.asarray(logits, np.float32)


def _shape_checks(
    folder: Path, result: Result, model: nn.Module, dense: nn.Module, plan: PlanFile
) -> Iterator[Check]:
    for name, network, schemes, stated in (
        ("dense", dense, (), result.dense),
        (result.method, model, plan.schemes, result.main.pruned),
    ):
        n_params = count_parameters(network, schemes)
        yield Check(
            f"{name}: {stated.n_params} parameters", str(n_params), n_params == stated.n_params
        )
    described = open_recorded(str(folder / "problem.json")).network
    dense_macs = described.macs(described.dense)
    yield Check(
        f"dense: {result.dense.macs} MACs", str(dense_macs), dense_macs == result.dense.macs
    )
    macs = described.macs(
        Plan(tuple(len(plan.kept[g.name]) for g in described.groups), plan.schemes)
    )
    yield Check(f"{result.main.pruned.macs} MACs", str(macs), macs == result.main.pruned.macs)
    yield from scheme_checks(model, plan)


def scheme_checks(model: nn.Module, plan: PlanFile) -> Iterator[Check]:
    """Whether each layer holds to its scheme.

    Args:
        model: rebuilt.
        plan: that says which schemes.
    """
    layers = dict(model.named_modules())
    for layer, text in plan.schemes:
        fits = satisfies_scheme(layers[layer].weight, Scheme.parse(text))
        yield Check(
            f"{layer} is pruned as {text}",
            "each block keeps so many entries" if fits else "a block keeps more entries",
            fits,
        )


def _accuracy_checks(result: Result, model: nn.Module, dense: nn.Module) -> Iterator[Check]:
    data = images_of(result.data, result.fast, result.top)

    def correct(network: nn.Module, split: Split) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return correct_predictions(network, split)

    for name, network, stated in (
        ("dense", dense, result.dense),
        (result.method, model, result.main.pruned),
    ):
        accuracy = float(correct(network, data.test).mean())
        yield Check(
            f"{name}: test accuracy {stated.accuracy_test:.4f}",
            f"{accuracy:.4f}",
            math.isclose(accuracy, stated.accuracy_test, abs_tol=5e-4),
        )
    dense_right, pruned_right = correct(dense, data.gate), correct(model, data.gate)
    gate_floor, gate = (
        resolve_floor(result.floor, float(dense_right.mean()), may_exceed=True),
        result.main.gate,
    )
    criterion = GateCriterion(
        floor=gate_floor,
        is_absolute=result.floor > 0,
        n_looks=int(gate["n_looks"]),
        risk=float(gate["risk"]),
    )
    is_dense = network_hash(model) == network_hash(dense)
    verdict = judge(dense_right, pruned_right, criterion, is_dense=is_dense)
    stated_bound = float(result.main.gate["lower_bound"])
    yield Check(
        f"gate's lower bound {stated_bound:.4f}",
        f"{verdict.lower_bound:.4f}",
        math.isclose(verdict.lower_bound, stated_bound, abs_tol=5e-4),
    )
    yield Check(
        f"gate passed: {result.main.gate['passed']}",
        str(verdict.passed),
        verdict.passed == result.main.gate["passed"],
    )
    floor = resolve_floor(result.floor, result.dense.accuracy_test, may_exceed=True)
    # its bound: the fewest errors that chance allows
    wrong = judge(
        ~correct(dense, data.test),
        ~correct(model, data.test),
        GateCriterion(floor=1 - floor, is_absolute=result.floor > 0),
    )
    accuracy, best = 1 - wrong.accuracy, 1 - wrong.lower_bound
    stated_holds = result.main.pruned.accuracy_test >= floor
    claim = f"the floor {floor:.4f} {'holds' if stated_holds else 'does not hold'} on test images"
    yield Check(claim, f"{accuracy:.4f}", (accuracy >= floor) == stated_holds)
    yield Check(
        f"test images do not refute the floor {floor:.4f}",
        f"{accuracy:.4f}, at best {best:.4f}",
        best >= floor,
    )


def _export_checks(
    folder: Path, plan: PlanFile, model: nn.Module, dense: nn.Module, device: RpcDevice | None
) -> Iterator[Check]:
    image = torch.from_numpy(
        np.random.default_rng(0).standard_normal(plan.input_shape).astype(np.float32)
    )
    expected, expected_dense = (logits_of(m, image) for m in (model, dense))
    with torch.no_grad():
        exported = torch.export.load(folder / "model.pt2").module()(image).numpy()
    computed = {"model.pt2": exported}
    if device is not None:
        from cprune_rl.compiler.deploy.build import run_on_device

        computed |= {
            name: run_on_device(device, folder / name, image.numpy(), plan.n_classes)
            for name in _LIBRARIES
        }
    for name, logits in computed.items():
        error = float(np.abs(logits - (expected_dense if name == "dense.so" else expected)).max())
        yield Check(
            f"{name} computes what the network computes",
            f"largest difference {error:.1e}",
            error <= TOLERANCE,
        )
    for name in _LIBRARIES if device is None else ():
        yield Check(f"{name}, the compiled network", _NOT_CHECKED, None)


def _estimate_checks(folder: Path, result: Result, plan: PlanFile) -> Iterator[Check]:
    """Adds the recorded tasks of both networks up again."""
    spec = parse_device(result.device)
    seed = spec.noise_seed if isinstance(spec, RecordedSpec) else None
    problem = open_recorded(str(folder / "problem.json"), noise_seed=seed)
    pruned = Plan(tuple(len(plan.kept[g.name]) for g in problem.network.groups), plan.schemes)
    found = [problem.measured_s(p) * 1e3 for p in (problem.network.dense, pruned)]
    for name, stated, estimate in (
        ("dense", result.dense.estimate_ms, found[0]),
        (result.method, result.main.pruned.estimate_ms, found[1]),
    ):
        yield Check(
            f"{name}: estimate {stated:.4f} ms",
            f"{estimate:.4f} ms by the recorded tasks",
            math.isclose(stated, estimate, rel_tol=1e-3),
        )
    ratio, (low, high) = found[0] / found[1], result.main.speedup_ci
    fits = (
        math.isclose(ratio, result.main.speedup, rel_tol=0.01)
        and low <= result.main.speedup <= high
    )
    yield Check(
        f"estimated speed-up {result.main.speedup:.2f} is the ratio of the estimates, inside its interval",
        f"{ratio:.2f}",
        fits,
    )
    yield Check("latency of the whole networks", _NOT_CHECKED, None)


def _speed_checks(
    folder: Path, result: Result, plan: PlanFile, device: RpcDevice
) -> Iterator[Check]:
    from cprune_rl.compiler.deploy.build import Rounds, compare_libraries

    main = result.main
    ratio = result.dense.shown_ms / main.pruned.shown_ms
    low, high = main.speedup_ci
    if main.speedup == 1.0:
        same = result.dense.macs == main.pruned.macs
        yield Check(
            "the result is the dense network", f"MACs {'agree' if same else 'differ'}", same
        )
        return
    fits = math.isclose(ratio, main.speedup, rel_tol=0.01) and low <= main.speedup <= high
    yield Check(
        f"speed-up {main.speedup:.2f} is the ratio of the latencies, inside its interval",
        f"{ratio:.2f}",
        fits,
    )
    timed = compare_libraries(
        device,
        {"dense": folder / "dense.so", "pruned": folder / "lib.so"},
        plan.input_shape,
        rounds=Rounds(N_ROUNDS),
    )
    found = timed.speedup["pruned"]
    agrees = found.high >= main.speedup_ci[0] * (1 - DRIFT) and found.low <= main.speedup_ci[1] * (
        1 + DRIFT
    )
    yield Check(
        f"speed-up {main.speedup:.2f}",
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] measured now",
        agrees,
    )
    if result.noise_floor is not None:
        claim = f"speed-up {main.speedup:.2f} {'is beyond' if result.has_gain(main) else 'is not beyond'} the noise floor, +-{result.noise_floor:.1%}"
        holds = gain_holds(result.has_gain(main), main.speedup_ci[1], found)
        told = f"{found.value:.2f}, noise floor +-{timed.noise_floor:.1%} now"
        yield Check(
            claim,
            told if holds is not None else f"not told: {told}, and another hour can change as much",
            holds,
        )


def gain_holds(has_gain: bool, stated_high: float, found: Interval) -> bool | None:
    """Whether a second timing agrees that there is a gain, or none.

    Args:
        has_gain: what the run states.
        stated_high: upper end of the speed-up it states.
        found: the speed-up at another hour.

    Returns:
        None where a gain is gone but so small that the drift between hours (`DRIFT`) can have taken
        it: that neither confirms nor refutes it.
    """
    if not has_gain:
        return found.low <= stated_high * (1 + DRIFT)
    if found.high >= 1:
        return True
    return None if found.high * (1 + DRIFT) >= 1 else False
