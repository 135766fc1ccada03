"""CPU use of a process with all its children, sampled by a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import psutil


class CpuUse(NamedTuple):
    """CPU use over ``seconds``, in cores kept busy."""

    seconds: float
    cores: float
    """By the process and its children."""
    processes: int
    """How many those are."""
    others: float
    """By all other processes of the machine."""


def tree_cpu_seconds(process: psutil.Process, without: Collection[int] = ()) -> tuple[float, int]:
    """CPU time of a process and its descendants, those that have ended included.

    Args:
        process: The root.
        without: Ids of children that do not count (and whose children do not either): the other ranks that
            rank 0 of a DDP run started.

    Returns:
        User and system time in seconds, and the number of living processes counted.
    """
    excluded = set(without)
    seconds, living = 0.0, 0
    for one in _tree(process, excluded):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            times = one.cpu_times()
            # A child that was waited for hands its time to its parent, so none is lost when workers end.
            seconds += times.user + times.system
            seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            living += 1
    return seconds, living


def _tree(process: psutil.Process, excluded: set[int]) -> list[psutil.Process]:
    if not excluded:
        return [process, *process.children(recursive=True)]
    found = [process]
    for child in process.children():
        if child.pid not in excluded:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child, *child.children(recursive=True)]
    return found


def machine_cpu_seconds() -> float:
    """Seconds that the machine's CPUs were busy since it started, all together."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is part of the user's
    return float(sum(seconds for name, seconds in times.items() if name not in idle))


class CpuSampler:
    """Reports every ``interval`` seconds how many cores this process and its children keep busy.

    Args:
        report: Called with each sample, from the sampler's thread.
        interval: Seconds between samples.
        without: Ids of children that do not count.
    """

    def __init__(
        self,
        report: Callable[[CpuUse], None],
        interval: float = 1.0,
        without: Collection[int] = (),
    ) -> None:
        self._report = report
        self._interval = interval
        self._without = frozenset(without)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cleval-tm-cpu-sampler", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after a last sample."""
        self._stopped.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        process = psutil.Process()
        before, _ = tree_cpu_seconds(process, self._without)
        machine, since = machine_cpu_seconds(), time.perf_counter()
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(self._interval)
            now = time.perf_counter()
            used, living = tree_cpu_seconds(process, self._without)
            busy, seconds = machine_cpu_seconds(), now - since
            if seconds > 0.1 * self._interval:
                # A worker killed before it was waited for takes its time along: never negative.
                cores = max(0.0, used - before) / seconds
                self._report(CpuUse(seconds, cores, living, max(0.0, (busy - machine) / seconds - cores)))
            before, machine, since = used, busy, now
