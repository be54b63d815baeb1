"""Where the work of a comparison is done: in processes of this machine, or on a Ray cluster.

Work leaves its result in a folder. Here it is only ensured that all of it is done, whatever happens
to processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol, TypeVar

from cprune_rl.errors import ConfigError, CPruneError

__all__ = ["BACKENDS", "Backend", "MarkedJob"]


class MarkedJob(Protocol):
    """Something to do; equal and hashed by what it is, and pickled."""

    @property
    def marker(self) -> Path:
        """A file that is there while a process works on it."""


Job = TypeVar("Job", bound=MarkedJob)


class Backend(Protocol):
    """Does jobs, each in a process of its own or one after another in a few."""

    def __call__(
        self,
        jobs: Sequence[Job],
        work: Callable[[Job], None],
        *,
        give_up: Callable[[Job], None],
        n_jobs: int | None,
        advance: Callable[[int], None],
    ) -> None:
        """Do them all.

        Args:
            jobs: all different.
            work: does one, in another process; marks it.
            give_up: called here for a job whose process was lost twice.
            n_jobs: processes; None for one on each core.
            advance: gets how many are done.

        Raises:
            CPruneError: what `work` or `give_up` raised, or the processes cannot begin.
        """


def in_processes(
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    *,
    give_up: Callable[[Job], None],
    n_jobs: int | None,
    advance: Callable[[int], None],
) -> None:
    """Do them in a few processes (see `Backend`).

    Where a process is killed, all that was being worked on is tried once more, each job alone:
    nobody knows whose fault it was.
    """
    left = list(jobs)

    def finish(job: Job) -> None:
        left.remove(job)
        advance(len(jobs) - len(left))

    while left:
        try:
            with _pool(n_jobs) as pool:
                futures = {pool.submit(work, job): job for job in left}
                for future in as_completed(futures):
                    future.result()
                    finish(futures[future])
        except BrokenProcessPool:
            suspects = [job for job in left if job.marker.exists()]
            if not suspects:
                raise CPruneError(
                    "the processes that were to search end before they begin: "
                    "is there memory enough?"
                ) from None
            for job in suspects:
                _try_alone(job, work, give_up)
                finish(job)


def _try_alone(job: Job, work: Callable[[Job], None], give_up: Callable[[Job], None]) -> None:
    job.marker.unlink(missing_ok=True)
    try:
        with _pool(1) as pool:
            pool.submit(work, job).result()
    except BrokenProcessPool:
        job.marker.unlink(missing_ok=True)
        give_up(job)


@contextlib.contextmanager
def _pool(n_jobs: int | None) -> Iterator[ProcessPoolExecutor]:
    # Spawned, because a forked process would inherit torch's threads.
    pool = ProcessPoolExecutor(
        n_jobs or os.cpu_count(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_silence_output,
    )
    try:
        yield pool
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # a search takes minutes
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _silence_output() -> None:
    """Keep standard output clean: HiGHS prints remarks to it, past Python."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def on_ray(
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    *,
    give_up: Callable[[Job], None],
    n_jobs: int | None,
    advance: Callable[[int], None],
) -> None:
    """Do each on one core of a Ray cluster, which must see the folder (see `Backend`).

    The cluster is the one that RAY_ADDRESS names, or one started here.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--backend ray wants Ray: pip install 'cprune-rl[ray]'") from error
    if not ray.is_initialized():
        ray.init(
            num_cpus=None if "RAY_ADDRESS" in os.environ else n_jobs,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
    task = ray.remote(num_cpus=1, max_retries=1)(work)
    waiting = {task.remote(job): job for job in jobs}
    for n_done in range(1, len(jobs) + 1):
        (reference,), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None  # what the work itself raised
        except ray.exceptions.RayError:
            give_up(job)  # its worker or its node was lost, twice
        advance(n_done)


BACKENDS: dict[str, Backend] = {"processes": in_processes, "ray": on_ray}
