"""`cprune-rl validate`:

checks what the folder of a run or of a front, or a row of a comparison, claims.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(validate)


def validate(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run or of a front to check, or a row of a comparison: DIR/rows/NAME.json."
        ),
    ],
) -> None:
    """Rebuild the networks of a run or of a front from their files and check what is claimed of
    them; run a comparison's row again.
    """
    from cprune_rl.pipeline.progress import ProgressLog

    if run.suffix == ".json":
        from cprune_rl.comparison.validation import check_record

        checks = check_record(run)
    else:
        from cprune_rl.validation.run import validate_run

        checks = validate_run(run)
    progress = ProgressLog()
    words = {True: "ok         ", False: "FAIL       ", None: "not checked"}
    for check in checks:
        progress.print(f"  {words[check.passed]} {check.claim}: {check.found}")
    n_checked, n_failed = (
        sum(c.passed is not None for c in checks),
        sum(c.passed is False for c in checks),
    )
    if n_failed:
        progress.print(f"{n_failed} of {n_checked} claims do not hold")
        raise typer.Exit(1)
    unchecked = (
        ""
        if n_checked == len(checks)
        else f"; {len(checks) - n_checked} could not be checked, each says why"
    )
    progress.print(f"all {n_checked} claims hold{unchecked}")
