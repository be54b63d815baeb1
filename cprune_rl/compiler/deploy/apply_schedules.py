"""Schedules the functions of a network with the traces that the tuner found for its tasks.

TVM's `MetaScheduleApplyDatabase` looks a function up by its structure. Where it finds none, it
leaves an untuned schedule without a word. Here a function without a trace is an error.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm.s_tir.meta_schedule.tune_context import _normalize_mod  # as MetaSchedule makes its tasks

from cprune_rl.compiler.tuning.schedule import ScheduleTrace, apply_schedule
from cprune_rl.errors import ModelError

__all__ = ["apply_schedules"]


def apply_schedules(
    module: tvm.IRModule, traces: Mapping[str, ScheduleTrace], target: tvm.target.Target
) -> tvm.IRModule:
    """Schedule every function of a module.

    Args:
        module: before any schedule.
        traces: by the name of the function.
        target: what they were found for.

    Raises:
        ModelError: a function has no trace, so it would run untuned.
    """
    functions = {
        variable: function
        for variable, function in module.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc)
    }
    if missing := sorted({variable.name_hint for variable in functions} - set(traces)):
        raise ModelError(
            f"no program was found for {', '.join(missing)}: compiled so, it would run untuned. "
            "Measure the plan first."
        )
    scheduled = module.clone()
    for variable, function in functions.items():
        trace = traces[variable.name_hint]
        tuned = apply_schedule(trace, _normalize_mod(function), target).mod["main"]
        scheduled[variable] = tvm.tirx.PrimFunc(
            tuned.params, tuned.body, tuned.ret_type, function.attrs
        ).with_attr("tirx.is_scheduled", True)
    return scheduled
