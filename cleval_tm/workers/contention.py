"""How much CPU time a stretch of work took, and how busy other processes kept the same CPUs meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import psutil

_NOTABLE = 0.25


@dataclass
class CpuTime:
    """CPU seconds of this process and of the children it waited for, in so many seconds of wall time."""

    seconds: float = 0.0
    wall: float = 0.0


class Contention:
    """Watches stretches of work; afterwards says what others used."""

    def __init__(self) -> None:
        self._others: list[float] = []
        self._cpus = _own_cpus()

    @property
    def others(self) -> float:
        """CPUs that other processes kept busy, the median over the stretches; 0 where nobody tells."""
        return median(self._others) if self._others else 0.0

    @contextmanager
    def watched(self) -> Iterator[CpuTime]:
        """Measure what runs within; children must have ended (and been waited for) at its end to count."""
        use = CpuTime()
        busy, own, begin = _busy(self._cpus), _own_seconds(), time.perf_counter()
        try:
            yield use
        finally:
            use.wall = time.perf_counter() - begin
            use.seconds = _own_seconds() - own
            if busy is not None and use.wall > 0.2:  # the kernel's clock ticks in hundredths
                after = _busy(self._cpus)
                self._others.append(max(0.0, ((after or 0.0) - busy - use.seconds) / use.wall))

    def note(self, budget: float) -> str | None:
        """A warning with the figure, if others left less than the budget; else None."""
        count = len(self._cpus)
        if self.others < _NOTABLE or count - self.others > budget:
            return None
        return (
            f"Contention: other processes kept {self.others:.1f} of {count} CPUs busy while this was "
            "measured; the figures hold for a machine as busy as that."
        )


def _own_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy(cpus: list[int]) -> float | None:
    """Seconds that ``cpus`` were busy since the machine started."""
    all_times = psutil.cpu_times(percpu=True)
    if not cpus or max(cpus) >= len(all_times):
        return None
    chosen = [all_times[number] for number in cpus]
    # Guest time is contained in user time already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(v for times in chosen for name, v in times._asdict().items() if name not in idle))
