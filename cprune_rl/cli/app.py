"""The program `cprune-rl`: its groups of commands, and how an error reaches the user."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cprune_rl import __version__
from cprune_rl.cli import cache, compare, device, problems, record, train, validate
from cprune_rl.errors import CPruneError

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for group in (train, validate, compare, problems, record, device, cache):
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
    """Entry point of `cprune-rl`; an error of ours is one line, not a traceback."""
    try:
        app()
    except CPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that went away
        print(f"error: {str(error).rstrip('.')}. What was written so far is kept.", file=sys.stderr)
        sys.exit(2)
