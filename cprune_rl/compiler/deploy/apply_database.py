"""Serves TVM's `MetaScheduleApplyDatabase` from the cost cache's programs.

TVM looks a function up by its structure; one that it does not find is compiled with an untuned
schedule, and by
default nothing says so. Here a lookup that misses is an error. Called by deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.tune_context import (
    _normalize_mod,
)  # what MetaSchedule itself applies to a task
from tvm_ffi import structural_equal, structural_hash

from cprune_rl.compiler.tuning.schedule import ScheduleTrace, apply_schedule
from cprune_rl.errors import ModelError

__all__ = ["ScheduleDatabase", "apply_schedules"]


@derived_object
class ScheduleDatabase(ms.database.PyDatabase):  # type: ignore[misc]  # tvm has no types
    """A database of the programs of one module.

    Args:
        module: whose functions will be asked for.
        programs: by the name of the function.
        target: what they were found for; a query for another target finds nothing.
    """

    def __init__(
        self, module: tvm.IRModule, programs: Mapping[str, ScheduleTrace], target: tvm.target.Target
    ) -> None:
        super().__init__()
        self._target = target
        self._schedules: dict[int, list[tuple[tvm.IRModule, Schedule]]] = {}
        self._n = 0
        for name, program in programs.items():
            task = _normalize_mod(module[name])
            schedule = apply_schedule(program, task, target)
            self._schedules.setdefault(structural_hash(task), []).append((task, schedule))
            self._n += 1

    def has_workload(self, mod: tvm.IRModule) -> bool:
        """Whether there is a program for a function."""
        return self._find(mod) is not None

    def commit_workload(self, mod: tvm.IRModule) -> Any:
        """Names a function to the compiler."""
        return ms.database.Workload(mod)

    def commit_tuning_record(self, record: Any) -> None:
        """Refuses: the cost cache is written by the tuner alone."""
        raise NotImplementedError("programs are kept by the tuner, not through TVM's database")

    def get_top_k(self, workload: Any, top_k: int) -> list[Any]:
        """The one program of a workload."""
        schedule = self._find(workload.mod)
        return (
            []
            if schedule is None
            else [ms.database.TuningRecord(schedule.trace, workload, None, self._target, None)][
                :top_k
            ]
        )

    def get_all_tuning_records(self) -> list[Any]:
        """Every program."""
        pairs = [pair for found in self._schedules.values() for pair in found]
        return [
            ms.database.TuningRecord(
                schedule.trace, ms.database.Workload(task), None, self._target, None
            )
            for task, schedule in pairs
        ]

    def query_tuning_record(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> Any:
        """The program of a function on a target; None where there is none."""
        schedule = self.query_schedule(mod, target, workload_name)
        return (
            None
            if schedule is None
            else ms.database.TuningRecord(
                schedule.trace, ms.database.Workload(mod), None, target, None
            )
        )

    def query_schedule(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> Any:
        """The schedule of a function on a target."""
        return self._find(mod) if str(target) == str(self._target) else None

    def query_ir_module(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> Any:
        """The scheduled function on a target."""
        schedule = self.query_schedule(mod, target, workload_name)
        return None if schedule is None else schedule.mod

    def __len__(self) -> int:
        return self._n

    def _find(self, mod: tvm.IRModule) -> Schedule | None:
        found = self._schedules.get(structural_hash(mod), [])
        return next((schedule for task, schedule in found if structural_equal(task, mod)), None)


def apply_schedules(
    module: tvm.IRModule, programs: Mapping[str, ScheduleTrace], target: tvm.target.Target
) -> tvm.IRModule:
    """Schedules every function of a module by its program.

    Args:
        module: before any schedule.
        programs: by the name of the function.
        target: what they were found for.

    Raises:
        ModelError: a function has no program, so it would run untuned.
    """
    database = ScheduleDatabase(module, programs, target)
    with target, database, tvm.transform.PassContext(opt_level=3):
        tuned = relax.transform.MetaScheduleApplyDatabase(enable_warning=False)(module)
    if missed := [
        gv.name_hint
        for gv, f in tuned.functions.items()
        if isinstance(f, tvm.tirx.PrimFunc) and not (f.attrs and "tirx.is_scheduled" in f.attrs)
    ]:
        raise ModelError(
            f"no program was found for {', '.join(sorted(missed))}: compiled so, it would run untuned. Measure the plan first."
        )
    return tuned
