"""`cprune-rl device`: what a device is worth, which devices there are, and which of two networks is
faster on one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cprune_rl.compiler.devices.tracker_client import KeyStatus, TrackerAddress
    from cprune_rl.core.device_descriptor import DeviceDescriptor

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures and the vector as JSON.")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Cost cache that keeps the figures; CPRUNE_RL_STORAGE or the user cache folder where not given.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Time everything again and keep nothing.")
    ] = False,
) -> None:
    """Time a small fixed set of workloads:

    the figures an agent knows a device by. Under a minute on most.
    """
    from cprune_rl.compiler.devices.open import open_device
    from cprune_rl.compiler.devices.spec import parse_device

    parse_device(device)
    from cprune_rl.compiler.tuning.probe import N_WORKLOADS, probe_device
    from cprune_rl.cost_cache import default_url, open_store
    from cprune_rl.pipeline.progress import ProgressLog

    progress = ProgressLog()
    store = None if fresh else open_store(storage or default_url())
    try:
        with (
            open_device(device) as opened,
            progress.track(f"Probing {opened.name}", N_WORKLOADS) as advance,
        ):
            found = probe_device(opened, store, advance)
            name, fingerprint = opened.name, opened.fingerprint
    finally:
        if store is not None:
            store.close()
    if as_json:
        print(
            json.dumps(
                {
                    "device": name,
                    "fingerprint": fingerprint,
                    "figures": found.to_json(),
                    "vector": dict(zip(found.vector_names(), found.vector(), strict=True)),
                },
                indent=1,
            )
        )
    else:
        Console().print(_probe_table(name, found))


def _probe_table(name: str, found: DeviceDescriptor) -> Table:
    view = Table(
        title=f"{name}, as an agent sees it",
        caption="vector: logarithms, about 0 to 1.5 from a small board to a server",
    )
    for column, justify in (
        ("figure", "left"),
        ("value", "right"),
        ("unit", "left"),
        ("vector", "right"),
    ):
        view.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal type
    vector = dict(zip(found.vector_names(), found.vector(), strict=True))
    for figure, value in found.to_json().items():
        view.add_row(
            figure,
            f"{value:.4g}",
            found.unit(figure),
            f"{vector[figure]:.2f}" if figure in vector else "-",
        )
    return view


def compare(
    device: Annotated[
        str, typer.Argument(help="Where to time them: local, or rpc://host:port/key.")
    ],
    networks: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more compiled networks: run folders (their lib.so), or libraries such as RUN/dense.so."
        ),
    ],
    rounds: Annotated[int, typer.Option(min=2, help="Each is timed once in every round.")] = 40,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Of one batch, e.g. 1,3,32,32; read from the run folder where not given.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time compiled networks in turns:

    is the second really faster than the first? With 95 % intervals and the noise floor.
    """
    from cprune_rl.pipeline.compare_builds import compare_networks
    from cprune_rl.pipeline.progress import ProgressLog

    timed = compare_networks(device, networks, input_shape, rounds, ProgressLog())
    if as_json:
        print(json.dumps(dataclasses.asdict(timed), indent=1))
        return
    first = next(iter(timed.latency_ms))
    view = Table(
        title=f"{rounds} rounds in turns",
        caption=f"{first} against itself differs by up to {timed.noise_floor:.1%}: less is no gain",
    )
    for column, justify in (
        ("network", "left"),
        ("latency, ms [95 %]", "right"),
        ("speed-up [95 %]", "right"),
        ("", "left"),
    ):
        view.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal type
    for name, latency in timed.latency_ms.items():
        found = timed.speedup.get(name)
        shown = "1" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        verdict = "" if found is None else "faster" if timed.is_gain(name) else "not faster"
        view.add_row(
            name, f"{latency.value:.4f} [{latency.low:.4f}, {latency.high:.4f}]", shown, verdict
        )
    Console().print(view)


def list_devices(
    tracker: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a TVM tracker; TVM_TRACKER_HOST and TVM_TRACKER_PORT where not given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List what this machine offers, the packaged recordings, and the devices of a TVM tracker."""
    import os

    from cprune_rl.compiler.devices.tracker_client import TrackerAddress, tracker_status

    is_asked = tracker is not None or "TVM_TRACKER_HOST" in os.environ
    address = TrackerAddress.parse(tracker) if is_asked else None
    status = tracker_status(address) if address is not None else []
    console = Console()
    console.print(_local_table())
    console.print(recorded_table())
    if address is None:
        console.print(
            "No tracker asked: give --tracker HOST:PORT or set TVM_TRACKER_HOST. Start one with `python -m tvm.exec.rpc_tracker --port 9190`.",
            highlight=False,
        )
    else:
        console.print(_tracker_table(address, status))


def _local_table() -> Table:
    import psutil

    from cprune_rl.compiler.devices.target import host_cpu, is_processor, make_target, vector_width

    view = Table(title=f"local: {psutil.cpu_count()} threads, processor {host_cpu()}")
    for column in ("device", "compiled for", "float32 lanes"):
        view.add_column(column)
    own = vector_width(make_target(1))
    classes = [("local", f"{host_cpu()} (this processor)", own)]
    others = [
        mcpu for mcpu in ("skylake-avx512", "haswell", "nehalem") if is_processor(mcpu)
    ]  # none of them on ARM
    classes += [
        (f"local?threads=1&mcpu={mcpu}", mcpu, width)
        for mcpu in others
        if (width := vector_width(make_target(1, mcpu))) <= own
    ]
    for cells in classes:
        view.add_row(*map(str, cells))
    if (n := psutil.cpu_count() or 1) > 1:
        view.add_row(f"local?threads={n}", f"{host_cpu()}, {n} threads", str(own))
    return view


def recorded_table() -> Table:
    """The packaged recordings: what each is of, and what machine it was made on."""
    from cprune_rl.envs.problems.registry import describe_recorded, recorded_names

    view = Table(
        title="Packaged recordings: no device, estimates",
        caption="recorded:NAME?noise=SEED answers with the spread that was measured",
    )
    for column, justify in (
        ("device", "left"),
        ("network", "left"),
        ("compiled for", "left"),
        ("machine", "left"),
        ("tasks", "right"),
        ("dense, ms", "right"),
    ):
        view.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's literal type
    for r in map(describe_recorded, recorded_names()):
        settings = dict(part.partition("=")[::2] for part in r.device.split(";"))
        threads = settings.get("threads", "?")
        compiled_for = f"{settings.get('mcpu', settings.get('key', '?'))}, {threads} thread{'' if threads == '1' else 's'}"
        view.add_row(
            f"recorded:{r.name}",
            f"{r.network}, {r.data}",
            compiled_for,
            r.machine,
            str(r.n_tasks),
            f"{r.dense_latency_s * 1e3:.3f}",
        )
    return view


def _tracker_table(tracker: TrackerAddress, status: list[KeyStatus]) -> Table:
    view = Table(
        title=f"Tracker at {tracker}",
        caption=None
        if status
        else f"No device yet. Start one with\npython -m cprune_rl.compiler.devices.rpc_server --tracker {tracker} --key NAME",
    )
    for column, justify in (
        ("device", "left"),
        ("free", "right"),
        ("busy", "right"),
        ("waiting", "right"),
        ("servers", "left"),
    ):
        view.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal type
    for s in status:
        view.add_row(
            f"rpc://{tracker}/{s.key}",
            str(s.n_free),
            str(max(s.n_servers - s.n_free, 0)),
            str(s.n_waiting),
            "\n".join(s.addresses) or "-",
        )
    return view
