"""`cprune-rl validate`: checks what a run, a front or a row of a comparison claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cprune_rl.core.check import Check

__all__ = ["register"]

_VERDICTS = {True: "ok         ", False: "FAIL       ", None: "not checked"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run or of a front, or a row of a comparison: DIR/rows/NAME.json."
        ),
    ],
) -> None:
    """Rebuild the networks of a run and check what it claims of them, or run a row again."""
    from cprune_rl.pipeline.progress import ProgressLog

    checks = _checks(run)
    progress = ProgressLog()
    for check in checks:
        progress.print(f"  {_VERDICTS[check.passed]} {check.claim}: {check.found}")
    n_checked = sum(check.passed is not None for check in checks)
    n_failed = sum(check.passed is False for check in checks)
    if n_failed:
        progress.print(f"{n_failed} of {n_checked} claims do not hold")
        raise typer.Exit(1)
    n_unchecked = len(checks) - n_checked
    rest = f"; {n_unchecked} could not be checked, each says why" if n_unchecked else ""
    progress.print(f"all {n_checked} claims hold{rest}")


def _checks(run: Path) -> list[Check]:
    if run.suffix == ".json":
        from cprune_rl.comparison.validation import check_record

        return check_record(run)
    from cprune_rl.validation.run import validate_run

    return validate_run(run)
