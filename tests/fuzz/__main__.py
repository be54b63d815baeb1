"""Reads damaged files by hand: `python -m tests.fuzz --inputs 100000 [FORMAT ...]`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.runner import Findings, read_damaged


def _main() -> int:
    parser = argparse.ArgumentParser(description="Read damaged files of every format.")
    parser.add_argument("formats", nargs="*", help=f"of {', '.join(FORMATS)}; all by default")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that found a fault")
    asked = parser.parse_args()
    n_faults = 0
    for name in asked.formats or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            findings = read_damaged(
                FORMATS[name], Path(folder), n_inputs=asked.inputs, seed=asked.seed
            )
            seconds = time.monotonic() - started
        print(
            f"{name}: {asked.inputs} inputs, {findings.n_refused} refused, "
            f"{findings.n_read} opened, {findings.faults.total()} faults, {seconds:.0f} s"
        )
        for fault, count in findings.faults.most_common():
            print(f"  {count:6} {fault}")
        if asked.keep is not None:
            _keep(findings, asked.keep / name.replace(" ", "-"))
        n_faults += findings.faults.total()
    return min(n_faults, 1)


def _keep(findings: Findings, folder: Path) -> None:
    for number, inputs in enumerate(findings.inputs.values()):
        for at, (name, content) in enumerate(inputs):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}-{at}-{Path(name).name}").write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(_main())
