"""Pages that are made from the code: one for each environment, one for the command line.

`make docs` writes them. A test fails where one is older than its docstring.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import gymnasium
import typer
from gymnasium.envs.registration import load_env_creator
from typer.cli import get_docs_for_click

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.cli import app

__all__ = ["ENVIRONMENTS", "pages", "write_pages"]

HERE = Path(__file__).parent
ENVIRONMENTS = {
    "cprune": "cprune_rl/CPrune-v0",
    "cprune-recorded": "cprune_rl/CPruneRecorded-v0",
    "evaluations": "cprune_rl/Evaluations-v0",
    "scheme-mapping": "cprune_rl/SchemeMapping-v0",
    "scheme-mapping-recorded": "cprune_rl/SchemeMappingRecorded-v0",
}
_OPTIONS = {
    "cprune_rl/CPrune-v0": ', model="resnet8"',
    "cprune_rl/SchemeMapping-v0": ', model="resnet8"',
    "cprune_rl/SchemeMappingRecorded-v0": ', problem="resnet8@mine.json.gz"',
}  # those that a reader has to give
_MADE = "<!-- Made by `make docs` from {source}: edit it there. -->\n\n"


def environment_page(env_id: str) -> str:
    """Give the page of an environment: how to make it, and its entry point's docstring."""
    docstring = inspect.getdoc(load_env_creator(gymnasium.spec(env_id).entry_point)) or ""
    summary, _, rest = docstring.partition("\n")
    options = _OPTIONS.get(env_id, "")
    return (
        _MADE.format(source="the docstring of its entry point")
        + f"# {env_id.partition('/')[2]}\n\n{summary}\n\n"
        + "```python\nimport cprune_rl\nimport gymnasium\n\n"
        + f'env = gymnasium.make("{env_id}"{options})\n```\n'
        + f"{rest}\n"
    )


def cli_page() -> str:
    """Give the reference of every command, as typer writes it."""
    command = typer.main.get_command(app)
    context = command.make_context("cprune-rl", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="cprune-rl", title="Command line")
    text = re.sub(r"^\s*\* `--help`: Show this message and exit\.\n", "", text, flags=re.MULTILINE)
    return _MADE.format(source="the commands' help") + text.rstrip() + "\n"


def pages() -> dict[Path, str]:
    """Give every made page by its path."""
    made = {HERE / "environments" / f"{k}.md": environment_page(v) for k, v in ENVIRONMENTS.items()}
    return {**made, HERE / "reference" / "cli.md": cli_page()}


def write_pages() -> None:
    """Write the pages that changed."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
