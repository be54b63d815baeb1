"""The program `cprune-rl`: its groups of commands, and how an error reaches the user.

Exit status: 0 where a command did its work, 1 where a check or a claim fails, 2 for an error of
this project's own, 130 and 143 after Ctrl-C and SIGTERM. A run in which no pruned network passes
the final gate keeps the dense one and says so: that is 0.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cprune_rl import __version__
from cprune_rl.cli import (
    cache,
    check,
    compare,
    device,
    problems,
    prune,
    record,
    train,
    train_policy,
    validate,
)
from cprune_rl.core.sigterm import exit_status, stop_on_sigterm
from cprune_rl.errors import CPruneError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Says that a command was stopped, and exits as shells expect it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            print("Stopped. What was finished is kept.", file=sys.stderr)
            raise typer.Exit(exit_status(stop)) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)
for group in (
    train,
    prune,
    train_policy,
    check,
    validate,
    compare,
    problems,
    record,
    device,
    cache,
):
    group.register(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"cprune-rl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Reinforcement learning for compiler-informed pruning."""


def main() -> None:
    """Run `cprune-rl`; an error or a warning of ours is one line, not a traceback."""
    _print_future_warnings_in_one_line()
    stop_on_sigterm()
    try:
        app()
    except CPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that went away
        print(f"error: {str(error).rstrip('.')}. What was written so far is kept.", file=sys.stderr)
        sys.exit(2)


def _print_future_warnings_in_one_line() -> None:
    """An old spelling is a user's to change; where in the code it was read is of no use to them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, FutureWarning) and "cprune_rl" in str(where[0] if where else ""):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show
