"""`cprune-rl device`: measure a device, list those there are, and time networks on one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cprune_rl.cli.tables import new_table

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.tracker_client import KeyStatus, TrackerAddress
    from cprune_rl.core.device_descriptor import DeviceDescriptor

__all__ = ["register"]

_OTHER_PROCESSORS = ("skylake-avx512", "haswell", "nehalem")  # none of them on ARM
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(
        help="Measure a device, list those there are, and time networks on one.",
        no_args_is_help=True,
    )
    group.command("probe")(probe)
    group.command("list")(list_devices)
    group.command("compare")(compare)
    app.add_typer(group, name="device")


def probe(
    device: Annotated[
        str,
        typer.Argument(
            help="Device to probe: local, local?threads=2&mcpu=haswell, or rpc://host:port/key."
        ),
    ],
    as_json: AsJson = False,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Cost cache that keeps the figures. Default: CPRUNE_RL_STORAGE, or a file in "
            "the user cache folder.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Time everything again and keep nothing.")
    ] = False,
) -> None:
    """Time a few fixed workloads: the figures a policy knows a device by. Mostly under a minute."""
    from cprune_rl.compiler.devices.open import open_device
    from cprune_rl.compiler.devices.spec import parse_device

    parse_device(device)
    from cprune_rl.compiler.tuning.probe import N_WORKLOADS, probe_device
    from cprune_rl.cost_cache import default_url, open_store
    from cprune_rl.pipeline.progress import ProgressLog

    with contextlib.ExitStack() as stack:
        store = None
        if not fresh:
            store = stack.enter_context(contextlib.closing(open_store(storage or default_url())))
        opened = stack.enter_context(open_device(device))
        advance = stack.enter_context(ProgressLog().track(f"Probing {opened.name}", N_WORKLOADS))
        descriptor = probe_device(opened, store, advance)
        name = opened.name
        fingerprint = opened.fingerprint
    if not as_json:
        Console().print(_probe_table(name, descriptor))
        return
    vector = dict(zip(descriptor.vector_names(), descriptor.vector(), strict=True))
    figures = descriptor.to_json()
    answer = {"device": name, "fingerprint": fingerprint, "figures": figures, "vector": vector}
    print(json.dumps(answer, indent=1))


def _probe_table(name: str, descriptor: DeviceDescriptor) -> Table:
    table = new_table(
        [("figure", "left"), ("value", "right"), ("unit", "left"), ("vector", "right")],
        title=f"{name}, as an agent sees it",
        caption="vector: logarithms, about 0 to 1.5 from a small board to a server",
    )
    vector = dict(zip(descriptor.vector_names(), descriptor.vector(), strict=True))
    for figure, value in descriptor.to_json().items():
        entry = f"{vector[figure]:.2f}" if figure in vector else "-"
        table.add_row(figure, f"{value:.4g}", descriptor.unit(figure), entry)
    return table


def compare(
    device: Annotated[
        str, typer.Argument(help="Where to time them: local, or rpc://host:port/key.")
    ],
    networks: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more compiled networks: run folders (their lib.so), or libraries such as "
            "RUN/dense.so."
        ),
    ],
    rounds: Annotated[int, typer.Option(min=2, help="Each is timed once in every round.")] = 40,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Of one batch, e.g. 1,3,32,32. Default: the run folder's.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time compiled networks in turns, with 95 % intervals and the noise floor."""
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.time_builds import compare_networks

    timed = compare_networks(device, networks, input_shape, rounds, ProgressLog())
    if as_json:
        print(json.dumps(dataclasses.asdict(timed), indent=1))
        return
    first = next(iter(timed.latency_ms))
    table = new_table(
        [
            ("network", "left"),
            ("latency, ms [95 %]", "right"),
            ("speed-up [95 %]", "right"),
            ("", "left"),
        ],
        title=f"{rounds} rounds in turns",
        caption=f"{first} against itself differs by up to {timed.noise_floor:.1%}: less is no gain",
    )
    for name, latency in timed.latency_ms.items():
        cells = [name, f"{latency.value:.4f} [{latency.low:.4f}, {latency.high:.4f}]"]
        ratio = timed.speedup.get(name)
        if ratio is None:
            cells += ["1", ""]
        else:
            verdict = "faster" if timed.is_gain(name) else "not faster"
            cells += [f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]", verdict]
        table.add_row(*cells)
    Console().print(table)


def list_devices(
    tracker: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a TVM tracker. Default: TVM_TRACKER_HOST and TVM_TRACKER_PORT.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List what this machine offers, the packaged recordings, and the devices of a TVM tracker."""
    from cprune_rl.compiler.devices.tracker_client import TrackerAddress, tracker_status

    is_asked = tracker is not None or "TVM_TRACKER_HOST" in os.environ
    address = TrackerAddress.parse(tracker) if is_asked else None
    status = tracker_status(address) if address is not None else []
    console = Console()
    console.print(_local_table())
    console.print(recorded_table())
    if address is not None:
        console.print(_tracker_table(address, status))
        return
    console.print(
        "No tracker asked: give --tracker HOST:PORT or set TVM_TRACKER_HOST. "
        "Start one with `python -m tvm.exec.rpc_tracker --port 9190`.",
        highlight=False,
    )


def _local_table() -> Table:
    import psutil

    from cprune_rl.compiler.devices.target import host_cpu, is_processor, make_target, vector_width

    n_threads = psutil.cpu_count() or 1
    table = new_table(
        [("device", "left"), ("compiled for", "left"), ("float32 lanes", "left")],
        title=f"local: {n_threads} threads, processor {host_cpu()}",
    )
    own_width = vector_width(make_target(1))
    table.add_row("local", f"{host_cpu()} (this processor)", str(own_width))
    for mcpu in filter(is_processor, _OTHER_PROCESSORS):
        width = vector_width(make_target(1, mcpu))
        if width <= own_width:
            table.add_row(f"local?threads=1&mcpu={mcpu}", mcpu, str(width))
    if n_threads > 1:
        description = f"{host_cpu()}, {n_threads} threads"
        table.add_row(f"local?threads={n_threads}", description, str(own_width))
    return table


def recorded_table() -> Table:
    """Make a table of the packaged recordings, with the machine each was made on."""
    from cprune_rl.envs.problems.registry import describe_recorded, recorded_names

    table = new_table(
        [
            ("device", "left"),
            ("network", "left"),
            ("compiled for", "left"),
            ("machine", "left"),
            ("tasks", "right"),
            ("dense, ms", "right"),
        ],
        title="Packaged recordings: no device, estimates",
        caption="recorded:NAME?noise=SEED answers with the spread that was measured",
    )
    for recording in map(describe_recorded, recorded_names()):
        settings = dict(part.partition("=")[::2] for part in recording.device.split(";"))
        threads = settings.get("threads", "?")
        processor = settings.get("mcpu", settings.get("key", "?"))
        plural = "" if threads == "1" else "s"
        table.add_row(
            f"recorded:{recording.name}",
            f"{recording.network}, {recording.data}",
            f"{processor}, {threads} thread{plural}",
            recording.machine,
            str(recording.n_tasks),
            f"{recording.dense_latency_s * 1e3:.3f}",
        )
    return table


def _tracker_table(tracker: TrackerAddress, status: Sequence[KeyStatus]) -> Table:
    server = f"python -m cprune_rl.compiler.devices.rpc_server --tracker {tracker} --key NAME"
    table = new_table(
        [
            ("device", "left"),
            ("free", "right"),
            ("busy", "right"),
            ("waiting", "right"),
            ("servers", "left"),
        ],
        title=f"Tracker at {tracker}",
        caption=None if status else f"No device yet. Start one with\n{server}",
    )
    for key in status:
        table.add_row(
            f"rpc://{tracker}/{key.key}",
            str(key.n_free),
            str(max(key.n_servers - key.n_free, 0)),
            str(key.n_waiting),
            "\n".join(key.addresses) or "-",
        )
    return table
