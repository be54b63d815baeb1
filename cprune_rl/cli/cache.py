"""`cprune-rl cache`: shows, checks, shares, upgrades and shrinks the cost cache."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cprune_rl.core.folders import cache_folder
from cprune_rl.errors import ConfigError

if TYPE_CHECKING:
    from cprune_rl.cost_cache import ContextSummary, SqlStore
    from cprune_rl.cost_cache.maintenance import RemovedRows

__all__ = ["register"]

_DAY_S = 24 * 3600.0
_SHOWN = 20  # findings of `verify` that are printed
Storage = Annotated[
    str | None,
    typer.Option(
        help="Cost cache, e.g. sqlite:///costs.db. Default: CPRUNE_RL_STORAGE, or a file in "
        "the user cache folder.",
        show_default=False,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        help="Only contexts (target, device, TVM version, timing) that hold this text. "
        "Default: all.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    cache = typer.Typer(
        help="Look after what is kept: measurements, trained networks, decoded pictures.",
        no_args_is_help=True,
    )
    commands: dict[str, Callable[..., None]] = {
        "stats": stats,
        "export": export,
        "import": import_,
        "verify": verify,
        "upgrade": upgrade,
        "prune": prune,
        "files": files,
    }
    for name, command in commands.items():
        cache.command(name)(command)
    app.add_typer(cache, name="cache")


def stats(
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what the cache holds of each context."""
    with _opened(storage) as store:
        summaries, size = store.contexts(), store.database.size_bytes()
    if as_json:
        print(
            json.dumps(
                {
                    "storage": store.database.name,
                    "size_bytes": size,
                    "contexts": [asdict(s) for s in summaries],
                },
                indent=1,
            )
        )
    else:
        _print_stats(store.database.name, size, summaries)


def export(
    file: Annotated[Path, typer.Argument(help="Archive to write, e.g. costs.jsonl.gz.")],
    storage: Storage = None,
    context: Context = None,
    family: Annotated[
        str | None,
        typer.Option(help="Only tasks whose family holds this text.", show_default=False),
    ] = None,
    no_accuracies: Annotated[
        bool, typer.Option("--no-accuracies", help="Leave the oracle's answers out.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write an archive: one compressed file with schedules, samples, provenances and a checksum."""
    from cprune_rl.cost_cache.archive.import_export import ExportFilter, export_archive

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: name another file, or give --force")
    with _opened(storage) as store, _bar("Exporting") as advance:
        counts = export_archive(
            store.database, file, ExportFilter(context, family, not no_accuracies), advance
        )
    typer.echo(f"{file}: {_listed(counts)}, {_readable(file.stat().st_size)}")


def import_(
    file: Annotated[Path, typer.Argument(help="Archive to add.")], storage: Storage = None
) -> None:
    """Add an archive, all of it or nothing.

    Its checksum, lines and schedules are verified first and nothing in it is run, but its figures
    are believed.
    """
    from cprune_rl.cost_cache.archive.import_export import import_archive

    with _opened(storage, create=True) as store, _bar("Importing") as advance:
        added = import_archive(store.database, file, advance)
    typer.echo(f"added to {store.database.name}: {_listed(added)}")


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(help="Archive to check; the cache where not given.", show_default=False),
    ] = None,
    storage: Storage = None,
) -> None:
    """Check an archive's checksum, lines and schedules, or every row of the cache.

    Failures of the machine, such as a full disk, that an earlier version kept as the programs' own
    are removed from the cache, so that the programs are tried again. Exits with 1 where something
    is wrong that cannot be mended.
    """
    if file is not None:
        from cprune_rl.cost_cache.archive.file import open_archive

        with _bar("Verifying") as advance, open_archive(file, advance) as archive:
            typer.echo(f"{file} is whole: {_listed(archive.header.counts)}")
        return
    from cprune_rl.cost_cache.maintenance import find_damage, remove_machine_failures

    with _opened(storage) as store, _bar("Verifying"):
        removed, failure = remove_machine_failures(store.database)
        found = find_damage(store.database)
    if removed.n_trials:
        typer.echo(
            f"  MENDED {removed.n_trials} failures were the machine's and not the programs' "
            f"(such as: {failure}). They are removed, with {removed.n_tunings} tunings, and what "
            "they stood for is tried again when it is asked for."
        )
    for sentence in found[:_SHOWN]:
        typer.echo(f"  FAIL {sentence}")
    if found:
        typer.echo(
            f"{store.database.name}: {len(found)} findings. Restore it from a copy, or export "
            "what can be and start a new file."
        )
        raise typer.Exit(1)
    typer.echo(f"{store.database.name} is sound")


def upgrade(storage: Storage = None) -> None:
    """Bring a cache of an earlier version to this version's schema;

    a SQLite file is copied beside itself first.
    """
    from cprune_rl.cost_cache import default_url
    from cprune_rl.cost_cache.upgrade import upgrade as upgrade_storage

    done = upgrade_storage(storage or default_url())
    if done.before == done.after:
        typer.echo(f"it is of schema {done.after} already: nothing to do")
        return
    typer.echo(
        f"upgraded from schema {done.before} to {done.after}"
        + (f"; the file as it was is {done.backup}" if done.backup else "")
    )


def prune(
    storage: Storage = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Remove all but this many of the fastest trials of each task.",
            show_default=False,
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0, help="Remove trials made more than this many days ago.", show_default=False
        ),
    ] = None,
    context: Context = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove trials that --keep or --older-than names, or with --context alone all of its trials.

    What is gone is measured again when it is asked for.
    """
    from cprune_rl.cost_cache.maintenance import RemovalRules, remove_trials

    rules = RemovalRules(keep, older_than, context)
    with _opened(storage) as store:
        if dry_run or not yes:
            would = remove_trials(store.database, rules, dry_run=True)
            typer.echo(f"would remove {_gone(would)}")
            if dry_run or would.n_trials == 0:
                return
            typer.confirm(f"Remove them from {store.database.name}?", abort=True)
        typer.echo(f"removed {_gone(remove_trials(store.database, rules))}")


def files(
    remove: Annotated[
        str | None,
        typer.Option(
            help="Remove what is listed of one kind, images or networks; all is made again when "
            "it is asked for, but for images that came from Python.",
            show_default=False,
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(min=0, help="Only what was not used for this many days.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """List the files beside the cost cache: decoded pictures and trained networks.

    Decoded pictures take at most 50 GB, or CPRUNE_RL_IMAGES_GB: those not used for longest go.
    """
    from cprune_rl.core.cached_files import KINDS, cached_files, remove_cached

    if remove is not None and remove not in KINDS:
        raise ConfigError(f"--remove {remove}: give {' or '.join(KINDS)}")
    latest = time.time() - (older_than or 0.0) * _DAY_S
    kept = cached_files(KINDS if remove is None else (remove,))
    kept = [file for file in kept if older_than is None or file.used < latest]
    for file in kept:
        typer.echo(
            f"{file.kind:9} {_readable(file.size_bytes):>10}  {_day(file.used)}  {file.what}"
        )
    size = _readable(sum(file.size_bytes for file in kept))
    typer.echo(f"{len(kept)} in {cache_folder()}, {size}")
    if remove is None or not kept:
        return
    if not yes:
        typer.confirm("Remove them?", abort=True)
    for file in kept:
        remove_cached(file)
    typer.echo(f"removed {size}")


@contextlib.contextmanager
def _opened(storage: str | None, *, create: bool = False) -> Iterator[SqlStore]:
    from cprune_rl.cost_cache import SqlStore, default_url

    with contextlib.closing(SqlStore(storage or default_url(), create=create)) as store:
        yield store


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _print_stats(name: str, size: int, summaries: list[ContextSummary]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("context", caption=Text(f"{name}, {_readable(size)}"), caption_justify="left")
    for heading in ("tasks", "trials", "failures", "first", "last"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(
            Text(s.context),
            str(s.n_workloads),
            str(s.n_trials),
            str(s.n_failures),
            _day(s.first),
            _day(s.last),
        )
    Console(width=None if Console().is_terminal else 150).print(table)


def _gone(removed: RemovedRows) -> str:
    return (
        f"{removed.n_trials} trials, {removed.n_schedules} schedules, "
        f"{removed.n_workloads} tasks, {removed.n_tunings} tunings"
    )


def _listed(counts: Mapping[Any, int]) -> str:
    words = {
        "workload": "workloads",
        "program": "schedules",
        "trial": "trials",
        "tuning": "tunings",
        "accuracy": "accuracies",
    }
    by_name = {str(kind): n for kind, n in counts.items()}
    return ", ".join(f"{by_name[kind]} {word}" for kind, word in words.items() if kind in by_name)


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
