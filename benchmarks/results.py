"""Prunes networks on published images, for hours, and makes a page of what came of it.

`python benchmarks/results.py [--fashion-mnist DIR] [--cifar10-jpeg DIR] [--checkpoints DIR]
[--out results] [--only NAME ...] [--list] [--page-only] [--trial]`, or `make results`.

First the main job on Fashion-MNIST, three networks by three seeds; then CIFAR-10 (JPEG) with
published checkpoints of ResNet-20 and ResNet-56. Every run has the agent, CPrune and MDP. What is
done is not done again; a run that was stopped goes on. A folder that is not given, here or by
FASHION_MNIST, CIFAR10_JPEG and CIFAR_RESNETS, is skipped; Fashion-MNIST is looked for where
Debian's package dataset-fashion-mnist puts it. A step that fails is told of in the end,
and the others go on.

`--trial` takes one short run of each network, to see that everything works; the page shows none of
them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cprune_rl.accuracy.data.fashion_mnist import DEFAULT_FOLDER

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the parts are no installed package

from real_images.page import find_runs, write_page  # noqa: E402
from real_images.steps import (  # noqa: E402
    Experiment,
    Sources,
    StepOutcome,
    experiments,
    plan_steps,
    run_steps,
)

_INTERRUPTED = 130
_PAGE = HERE.parent / "docs" / "results" / "real-images.md"
_CONSOLE = Console(stderr=True, soft_wrap=True)


def execute(command: Sequence[str], log: Path) -> int:
    """Run a command, keep what it prints in a file and show it.

    The command gets Ctrl-C itself and ends by it in its own way.

    Returns:
        Its exit status.
    """
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                _copy(process, file)
            except KeyboardInterrupt:
                _copy(process, file)
                process.wait()
                return _INTERRUPTED
    return process.returncode


def _copy(process: subprocess.Popen[str], file: object) -> None:
    assert process.stdout is not None, "it is piped"
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        print(line, end="", file=file, flush=True)  # type: ignore[call-overload]


def choose(planned: Sequence[Experiment], names: Sequence[str]) -> list[Experiment]:
    """Take the experiments of some names, or all.

    Raises:
        SystemExit: there is none of a name.
    """
    known = {experiment.name: experiment for experiment in planned}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(planned)


def find_sources(options: argparse.Namespace) -> Sources:
    """Check the folders that were named.

    Raises:
        SystemExit: a folder is named and not there.
    """
    folders: dict[str, Path | None] = {}
    packaged = Path(DEFAULT_FOLDER)
    if not options.fashion_mnist and packaged.is_dir():
        options.fashion_mnist = str(packaged)
    for name in ("fashion_mnist", "cifar10_jpeg", "checkpoints"):
        given = getattr(options, name)
        folder = Path(given).expanduser().resolve() if given else None
        if folder is not None and not folder.is_dir():
            raise SystemExit(
                f"--{name.replace('_', '-')} {folder} is not there: name the folder, or leave the "
                "option out to skip what needs it"
            )
        folders[name] = folder
    return Sources(**folders)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    environment = os.environ.get
    parser.add_argument("--fashion-mnist", default=environment("FASHION_MNIST"))
    parser.add_argument("--cifar10-jpeg", default=environment("CIFAR10_JPEG"))
    parser.add_argument("--checkpoints", default=environment("CIFAR_RESNETS"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=_PAGE)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--trial", action="store_true")
    options = parser.parse_args()
    all_of_them = experiments(find_sources(options))
    chosen = choose(all_of_them, options.only)
    if options.trial:
        chosen = [experiment.as_trial() for experiment in chosen]
    folder = options.out.expanduser().resolve()
    if options.list:
        for step in plan_steps(chosen, folder):
            print(step.name)
        _tell_missing(chosen)
        return
    outcomes: list[StepOutcome] = []
    if not options.page_only:
        outcomes = _run(chosen, folder)
    if not options.trial:
        runs = find_runs(all_of_them, folder)
        write_page(options.page, all_of_them, runs)
        _CONSOLE.print(f"{options.page}: {len(runs)} runs")
    _tell_missing(chosen)
    failed = [o for o in outcomes if o.state in ("failed", "not tried")]
    for outcome in failed:
        _CONSOLE.print(f"{outcome.step.name}: {outcome.state}{outcome.note}")
    sys.exit(1 if failed else 0)


def _run(chosen: Sequence[Experiment], folder: Path) -> list[StepOutcome]:
    try:
        return run_steps(plan_steps(chosen, folder), folder, execute, _CONSOLE.print)
    except KeyboardInterrupt:
        _CONSOLE.print("Stopped. What is done stays; the same command goes on.")
        sys.exit(_INTERRUPTED)


def _tell_missing(chosen: Sequence[Experiment]) -> None:
    for experiment in chosen:
        if experiment.missing:
            needed = " and ".join(experiment.missing)
            _CONSOLE.print(f"{experiment.name}: skipped, {needed} not given")


if __name__ == "__main__":
    main()
