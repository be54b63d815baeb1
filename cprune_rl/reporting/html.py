"""All pages come from one set of templates, and load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cprune_rl.core.atomic_files import write_text

__all__ = ["Command", "count", "list_commands", "write_html"]


@dataclass(frozen=True)
class Command:
    """A command that made what a page shows, or checks it.

    Attributes:
        text: as it is typed.
        purpose: what it does.
    """

    text: str
    purpose: str


def list_commands(made_by: Iterable[str], check: Command) -> list[Command]:
    """List the commands of a page.

    Args:
        made_by: those that made its figures, in order; each is listed once.
        check: the one that checks them.
    """
    commands = [
        # Python names a package that it runs as a program after its file.
        Command(text.replace("__main__.py", "cprune-rl", 1), "Made the figures on this page.")
        for text in dict.fromkeys(made_by)
    ]
    return [*commands, check]


def write_html(path: Path, template: str, **values: object) -> None:
    """Write a page.

    Args:
        path: file to write.
        template: name of its template.
        values: what the template shows.
    """
    write_text(path, _ENVIRONMENT.get_template(template).render(values))


def count(n: int, noun: str) -> str:
    """Write how many there are of something: 1 case, 1,000 cases."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


_ENVIRONMENT = Environment(
    loader=PackageLoader("cprune_rl.reporting"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters["count"] = count
