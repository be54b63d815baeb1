"""Options as version 0.2 spelled them, for one more version.

Flags and files of a user's own get a warning that names the new spelling. A run folder's
`config.yaml` is translated quietly.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from cprune_rl.core.untrusted import damage
from cprune_rl.errors import ConfigError

__all__ = ["OLD_OPTIONS", "OldOptionWarning", "overridden", "translate"]

OLD_OPTIONS = {
    "fast": "--effort fast",
    "front": "--floor with several floors, parted by commas",
    "method": "--methods",
    "rival": "--methods agent,cprune",
    "rivals": "--methods",
    "schemes": "--change channels,schemes",
    "mapping": "--choose",
    "mapping_policy": "--scheme-policy",
    "max_trials": "--budget trials=N",
    "max_evaluations": "--budget evaluations=N",
    "max_minutes": "--budget minutes=N",
    "no_measure": "--predict always",
}
"""What takes the place of each old option."""
_CHANGES = {"channel": "channels", "block": "schemes", "both": "channels,schemes"}
_OWN_METHODS = {
    ("block", "search"): "mapping-search",
    ("block", "rule"): "mapping-rule",
    ("both", "search"): "channels-then-schemes",
    ("both", "rule"): "channels-then-rule",
}


class OldOptionWarning(FutureWarning):
    """An option has a new spelling."""


def translate(
    values: Mapping[str, Any], *, has_rival: bool = False, is_quiet: bool = False
) -> dict[str, Any]:
    """Give options in the spelling of today.

    Args:
        values: options in either spelling.
        has_rival: whether the command runs CPrune beside its own method where nothing is said.
        is_quiet: whether no warning is given.

    Raises:
        ConfigError: one option is given in both spellings, or an old one has a wrong value.
    """
    old = {name: value for name, value in values.items() if name in OLD_OPTIONS}
    new = {name: value for name, value in values.items() if name not in OLD_OPTIONS}
    if not old:
        return new
    if not is_quiet:
        for name in old:
            warnings.warn(
                f"--{name.replace('_', '-')} is an old spelling: use {OLD_OPTIONS[name]}",
                OldOptionWarning,
                stacklevel=3,
            )
    if old.get("front"):
        new.pop("floor", None)  # 0.2 wrote both into config.yaml, and the front counted
    try:
        translated = _translated(old, has_rival)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"an old option has a value of another kind: {damage(error)}") from error
    # A file of 0.2 has `predict` beside `no_measure`, and nothing else in both spellings.
    both = () if is_quiet else ("methods", "change", "choose", "budget", "scheme_policy", "predict")
    for name in both:
        if name in translated and name in new:
            raise ConfigError(
                f"--{name.replace('_', '-')} is given in an old spelling too "
                f"({', '.join('--' + key.replace('_', '-') for key in old)}): leave that out"
            )
    return {**new, **translated}


def overridden(in_file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a file says in another spelling than a flag.

    Raises:
        ConfigError: one option is given as a flag in both spellings.
    """
    left = dict(in_file)
    for old, new in {"front": "floor", "fast": "effort"}.items():
        if given.get(old) and new in given:
            raise ConfigError(f"--{new} is given in an old spelling too (--{old}): leave that out")
        if new in given:
            left.pop(old, None)
        if given.get(old):
            left.pop(new, None)
    return left


def _translated(old: Mapping[str, Any], has_rival: bool) -> dict[str, Any]:
    new: dict[str, Any] = {}
    if old.get("fast"):
        new["effort"] = "fast"
    if old.get("front"):
        new["floor"] = old["front"]
    if "schemes" in old:
        new["change"] = _CHANGES.get(old["schemes"], old["schemes"])
    if "mapping" in old:
        new["choose"] = old["mapping"]
    if old.get("mapping_policy") is not None:
        new["scheme_policy"] = old["mapping_policy"]
    if old.get("no_measure"):
        new["predict"] = "always"
    if budget := _budget(old):
        new["budget"] = budget
    if {"method", "rival", "rivals"} & set(old):
        new["methods"] = _methods(old, has_rival)
    return new


def _budget(old: Mapping[str, Any]) -> str:
    limits = {name: old.get(f"max_{name}") for name in ("trials", "evaluations", "minutes")}
    return ",".join(f"{name}={limit}" for name, limit in limits.items() if limit is not None)


def _methods(old: Mapping[str, Any], has_rival: bool) -> list[str]:
    """The own method first, then what version 0.2 ran beside it, in its order."""
    names = {"greedy": "cprune"}
    method = old.get("method", "agent")
    key = (old.get("schemes", "channel"), old.get("mapping", "search"))
    own = _OWN_METHODS.get(key, method)
    is_rival = old.get("rival", has_rival) and not old.get("front")
    rivals = old.get("rivals", ())
    rivals = rivals.split(",") if isinstance(rivals, str) else rivals
    beside = ["cprune", method] if is_rival else []
    ordered = [own, *beside, *rivals]
    return list(dict.fromkeys(names.get(name, name) for name in ordered if name))
