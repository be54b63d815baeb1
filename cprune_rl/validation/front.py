"""Checks the folder of a front in a fresh process:

every network is rebuilt from its files, judged again, run and timed beside the others.

What the searches cost is history, as in `job.validate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.final_gate import GateCriterion, difference_interval, judge
from cprune_rl.accuracy.training import correct_predictions
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.intervals import Interval
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.errors import ConfigError
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pruning.surgery import PlanFile, count_parameters, load_pruned
from cprune_rl.validation.run import (
    DRIFT,
    N_ROUNDS,
    TOLERANCE,
    Check,
    images_of,
    logits_of,
    scheme_checks,
)

__all__ = ["validate_front"]


def validate_front(folder: Path) -> list[Check]:
    """Checks what `front.json` claims of each of its networks.

    Raises:
        CPruneError: the folder holds no finished front, a file of it is damaged, or its device is
            gone.
    """
    points = _read(folder)
    networks = {
        str(point["folder"]): load_pruned(folder / str(point["folder"])) for point in points
    }
    config = RunFolder.resume(folder).config
    data = images_of(config.data, config.fast, config.top)
    checks = [
        check for point in points for check in _network_checks(point, *networks[point["folder"]])
    ]
    checks += _accuracy_checks(points, [model for model, _ in networks.values()], data)
    if isinstance(parse_device(config.device), RecordedSpec):
        return [
            *checks,
            Check("latencies, and the compiled networks", "not checked: recorded device", None),
        ]
    return [*checks, *_device_checks(folder, config.device, points, networks)]


def _read(folder: Path) -> list[dict[str, Any]]:
    """The points, the dense network's first."""
    try:
        points = json.loads((folder / "front.json").read_text())["points"]
        if [p["floor"] is None for p in points] != [True, *[False] * (len(points) - 1)]:
            raise ValueError("its first network is to be the dense one, and no other")
        missing = [
            p["folder"] for p in points if not (folder / p["folder"] / "model.safetensors").exists()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'front.json'} is no finished front: {error}") from error
    if missing:
        raise ConfigError(
            f"{folder / missing[0]} has no network: it was not finished, or moved away"
        )
    return list(points)


def _network_checks(point: Mapping[str, Any], model: nn.Module, plan: PlanFile) -> Iterator[Check]:
    n_params = count_parameters(model, plan.schemes)
    yield Check(
        f"{point['folder']}: {point['n_params']} parameters",
        str(n_params),
        n_params == point["n_params"],
    )
    for check in scheme_checks(model, plan):
        yield Check(f"{point['folder']}: {check.claim}", check.found, check.passed)


def _accuracy_checks(
    points: Sequence[Mapping[str, Any]], models: Sequence[nn.Module], data: ImageData
) -> Iterator[Check]:
    right = [correct_predictions(model, data.test) for model in models]
    of_gate = [correct_predictions(model, data.gate) for model in models]
    for point, model, answers, gated in zip(points, models, right, of_gate, strict=True):
        accuracy, stated = float(answers.mean()), float(point["accuracy_test"][0])
        yield Check(
            f"{point['folder']}: test accuracy {stated:.4f}",
            f"{accuracy:.4f}",
            math.isclose(accuracy, stated, abs_tol=5e-4),
        )
        if point["floor"] is not None:
            gained, was = difference_interval(answers, right[0]), Interval(*point["gained_test"])
            agrees = all(
                math.isclose(*ends, abs_tol=1e-3)
                for ends in (
                    (gained.value, was.value),
                    (gained.low, was.low),
                    (gained.high, was.high),
                )
            )
            yield Check(
                f"{point['folder']}: gained {_told(was)} on the same images", _told(gained), agrees
            )
            stated_gate, is_absolute = point["gate"], point["floor"] > 0
            floor = resolve_floor(point["floor"], float(of_gate[0].mean()), may_exceed=True)
            is_dense = network_hash(model) == network_hash(models[0])
            criterion = GateCriterion(
                floor=floor,
                is_absolute=is_absolute,
                n_looks=int(stated_gate["n_looks"]),
                risk=float(stated_gate["risk"]),
            )
            verdict = judge(of_gate[0], gated, criterion, is_dense=is_dense)
            agrees = verdict.passed == stated_gate["passed"] and math.isclose(
                verdict.lower_bound, stated_gate["lower_bound"], abs_tol=5e-4
            )
            claim = f"{point['folder']}: the gate {'passed' if stated_gate['passed'] else 'refused'} it, lower bound {stated_gate['lower_bound']:.4f}, floor {floor:.4f}"
            yield Check(claim, f"{verdict.lower_bound:.4f}", agrees)


def _told(gained: Interval) -> str:
    return f"{gained.value:+.4f} [{gained.low:+.4f}, {gained.high:+.4f}]"


def _device_checks(
    folder: Path,
    device_name: str,
    points: Sequence[Mapping[str, Any]],
    networks: Mapping[str, tuple[nn.Module, PlanFile]],
) -> Iterator[Check]:
    from cprune_rl.compiler.deploy.build import Rounds, compare_libraries, run_on_device

    libraries = {name: folder / name / "lib.so" for name in networks}
    shape, n_classes = networks["dense"][1].input_shape, networks["dense"][1].n_classes
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    with open_device(device_name) as device:
        for name, (model, _) in networks.items():
            error = float(
                np.abs(
                    run_on_device(device, libraries[name], image.numpy(), n_classes)
                    - logits_of(model, image)
                ).max()
            )
            yield Check(
                f"{name}/lib.so computes what the network computes",
                f"largest difference {error:.1e}",
                error <= TOLERANCE,
            )
        timed = compare_libraries(device, libraries, shape, rounds=Rounds(N_ROUNDS))
    for point in points[1:]:
        stated, found = Interval(*point["speedup"]), timed.speedup[point["folder"]]
        agrees = found.high >= stated.low * (1 - DRIFT) and found.low <= stated.high * (1 + DRIFT)
        yield Check(
            f"{point['folder']}: speed-up {stated.value:.2f}",
            f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] measured now",
            agrees,
        )
