"""Which networks go the whole way: pruned, exported, compiled in every form, and equal to torch.

`python benchmarks/networks.py [--json FILE] [--markdown FILE] [--device local] [--only NAME ...]`.
Each network is checked as `cprune-rl check` does it, with drawn weights, in a process of its own.
What a JSON file has already is not checked again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cprune_rl.models.zoo import MODELS

LIBRARY = (
    "alexnet",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "squeezenet1_1",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet1_0",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
)
TIMM = (
    "mobilenetv3_small_100",
    "tf_efficientnet_lite0",
    "ghostnet_100",
    "mixnet_s",
    "cspresnet50",
    "cspdarknet53",
    "res2net50_26w_4s",
    "dla34",
    "hrnet_w18_small",
    "repvgg_a0",
    "mobileone_s0",
    "fbnetc_100",
    "lcnet_050",
    "tinynet_e",
    "seresnet18",
    "selecsls42",
    "vit_small_patch16_224",
)
NETWORKS = (
    *MODELS,
    *(f"torchvision:{name}" for name in LIBRARY),
    *(f"timm:{name}" for name in TIMM),
)
# Inception's second head takes no smaller map in training.
_SIZES_PX = {"inception_v3": 299, "vit_b_16": 224, "vit_small_patch16_224": 224}
_USUAL_PX = 64
_N_CLASSES = 10
_EXPLANATION = """\
Each network has drawn weights, and batch norms with drawn statistics. `prunable layers` are the
convolutions and linear layers whose channels can go: what is computed without a channel is what is
computed with it masked. `forms` are those in which the network was compiled, without tuning, at
three random plans, each equal to torch. A network that fails says why.

Made by
`python benchmarks/networks.py --device none --json networks.json --markdown docs/networks.md`;
one network: `cprune-rl check --model torchvision:resnet18 --input 3,64,64`."""


def examine(name: str, device: str) -> dict[str, Any]:
    """Check one network in a process of its own: a crash of the compiler is a row too."""
    size_px = 32 if name in MODELS else _SIZES_PX.get(name.partition(":")[2], _USUAL_PX)
    command = [sys.executable, "-m", "cprune_rl.cli", "check", "--model", name, "--json"]
    command += ["--input", f"3,{size_px},{size_px}", "--classes", str(_N_CLASSES)]
    command += ["--device", device]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"network": name, "size_px": size_px}
    row["seconds"] = round(time.perf_counter() - started, 1)
    try:
        return row | json.loads(done.stdout)
    except json.JSONDecodeError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return row | {"passes": False, "crash": last}


COLUMNS = ("network", "input", "whole way", "prunable layers", "left whole", "forms", "note")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Write a row as people read it, one cell for each of `COLUMNS`."""
    reasons = Counter(map(_kind, row.get("left_whole", {}).values()))
    return (
        row["network"],
        f"{row['size_px']}x{row['size_px']}",
        "yes" if row.get("passes") else "NO",
        f"{len(row['prunable_layers'])} of {len(row['layers'])}" if row.get("layers") else "-",
        "; ".join(f"{reason} ({n})" for reason, n in reasons.items()),
        "; ".join(row.get("forms", ())),
        _note(row),
    )


def _kind(reason: str) -> str:
    """Write a reason without the module that it names and without its remarks."""
    return re.sub(r"^'[^']*' ", "", reason).partition(" (")[0]


def _note(row: dict[str, Any]) -> str:
    if "crash" in row:
        return str(row["crash"])
    findings = row.get("findings", ())
    worth = [f for f in findings if f["status"] in ("failed", "warning")]
    return "; ".join(f"{f['what']}: {f['found']}" for f in worth)


def table(rows: list[dict[str, Any]]) -> Table:
    """Write all rows for a console."""
    view = Table(*COLUMNS)
    for row in rows:
        view.add_row(*cells(row))
    return view


def markdown(rows: list[dict[str, Any]]) -> str:
    """Write all rows for the docs."""
    n_whole = sum(bool(row.get("passes")) for row in rows)
    count = f"{n_whole} of {len(rows)} networks go the whole way ({date.today()})."
    lines = ["# Which networks go the whole way", "", _EXPLANATION, "", count, ""]
    for line in (COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows)):
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=NETWORKS, metavar="NAME")
    parser.add_argument("--device", default="local")
    parser.add_argument("--json", type=Path, help="rows; those that it has are kept")
    parser.add_argument("--markdown", type=Path, help="the table for the docs")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())
    known = {row["network"] for row in rows}
    for name in options.only:
        if name in known:
            continue
        rows.append(examine(name, options.device))
        print(*cells(rows[-1]), f"{rows[-1]['seconds']} s", sep=" | ", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
        if options.markdown:
            options.markdown.write_text(markdown(rows))
    Console().print(table(rows))


if __name__ == "__main__":
    main()
