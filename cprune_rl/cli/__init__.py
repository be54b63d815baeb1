"""The command line: parses, calls, prints. One module for each group of commands."""

from cprune_rl.cli.app import app, main

__all__ = ["app", "main"]
