"""What the shell offers for the value of an option. It loads neither torch nor tvm.

Names that only torch's side knows stand here once more. A test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["COMPLETIONS", "DATA", "EXPORTS", "IMPORTANCES", "MODELS"]

MODELS = (
    "mobilenetv2-small",
    "resnet8",
    "resnet8-w32",
    "resnet8-w8",
    "resnet20",
    "vgg-small",
    "vgg16-cifar",
)
DATA = (
    "contours",
    "digits",
    "fashion-mnist",
    "cifar10:",
    "imagefolder:",
    "npz:",
    "arrays:",
)
IMPORTANCES = ("l1", "l2", "fpgm", "taylor", "random")
_EFFORTS = ("full", "light", "quick", "fast")
_CHANGES = ("channels", "schemes", "channels,schemes")
EXPORTS = ("onnx", "pte")


def _one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Complete with names that begin as the text does."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _several_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Complete the last of names that commas part."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [
            f"{before}{comma}{name}"
            for name in names
            if name.startswith(last) and name not in taken
        ]

    return complete


def _devices(incomplete: str) -> list[str]:
    from cprune_rl.envs.problems.registry import recorded_names

    names = ["local", "local?threads=", "rpc://", *(f"recorded:{n}" for n in recorded_names())]
    return [name for name in names if name.startswith(incomplete)]


def _problems(incomplete: str) -> list[str]:
    from cprune_rl.envs.problems.registry import recorded_names

    return _several_of(recorded_names(with_added=True))(incomplete)


def _methods(incomplete: str) -> list[str]:
    from cprune_rl.agents.registry import METHODS

    return _several_of([n for n, m in METHODS.items() if m.is_in_runs])(incomplete)


def _policies(incomplete: str) -> list[str]:
    from cprune_rl.agents.policies import policy_names

    return _one_of(policy_names())(incomplete)


COMPLETIONS: dict[str, Callable[[str], list[str]]] = {
    "models": _one_of([*MODELS, "torchvision:", "timm:"]),
    "data": _one_of(DATA),
    "importances": _one_of(IMPORTANCES),
    "methods": _methods,
    "efforts": _one_of(_EFFORTS),
    "changes": _one_of(_CHANGES),
    "choices": _one_of(("search", "rule")),
    "exports": _several_of(EXPORTS),
    "labels": _one_of(("given", "teacher")),
    "oracles": _one_of(("finetune", "finetune:", "supernet", "recalibrate")),
    "learners": _one_of(("ppo", "dqn")),
    "devices": _devices,
    "problems": _problems,
    "policies": _policies,
}
"""By the word that an option's description gives."""
