"""Idle times of a GPU's streams, from the kernels in a profiler's trace; standard library only."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple

_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_LAUNCHES = ("_runtime", "_driver")


@dataclass(frozen=True)
class StreamIdle:
    """How long one stream of a device had nothing to do; times in seconds.

    Args:
        device: Index of the device.
        stream: Number of the stream.
        operations: Kernels, copies and fills that ran on it.
        busy: Time in which at least one ran.
        busy_share: That time over the time from the first's start to the last's end.
        idle: Time in which none ran, between those two.
        idle_between_steps: The part of it that lies between the last operation of a step and the first of the
            next (by where the host launched them: before or after the fetch).
        longest_idle: The longest stretch without work.
        longest_idle_at: Where it starts, in seconds since the first event of the trace.
    """

    device: int
    stream: int
    operations: int
    busy: float
    busy_share: float
    idle: float
    idle_between_steps: float
    longest_idle: float
    longest_idle_at: float

    def __str__(self) -> str:
        return (
            f"device {self.device}, stream {self.stream}: busy {self.busy_share:.0%} "
            f"({self.operations} operations), idle {self.idle * 1e3:.3g} ms, "
            f"{self.idle_between_steps * 1e3:.3g} ms of it between steps; longest "
            f"{self.longest_idle * 1e3:.3g} ms at {self.longest_idle_at:.3f} s"
        )


class _Operation(NamedTuple):
    start: float
    end: float
    correlation: Any


class DeviceWork:
    """Collects the device's operations and the host's launches from the events of a trace."""

    def __init__(self) -> None:
        self._operations: dict[tuple[int, int], list[_Operation]] = {}
        self._launched: dict[Any, float] = {}

    def add(self, category: str, event: dict[str, Any], start: float, seconds: float) -> bool:
        """Takes the event if it is one of a device or a launch of one; times in seconds. True where it is."""
        if category in _WORK:
            args = event.get("args", {})
            device = args.get("device", event.get("pid", 0))
            stream = args.get("stream", event.get("tid", 0))
            operation = _Operation(start, start + seconds, args.get("correlation"))
            self._operations.setdefault((int(device), int(stream)), []).append(operation)
            return True
        if category.endswith(_LAUNCHES):
            correlation = event.get("args", {}).get("correlation")
            if correlation is not None:
                self._launched[correlation] = start
            return True
        return False

    def idle(self, origin: float, boundaries: list[float]) -> list[StreamIdle]:
        """The idle times of each stream, the busiest stream first.

        Args:
            origin: The clock's zero in the trace, seconds.
            boundaries: Where each step begins on the host (end of its fetch), seconds since ``origin``,
                ascending.
        """
        found = [
            self._of_stream(device, stream, sorted(operations), origin, boundaries)
            for (device, stream), operations in self._operations.items()
        ]
        return sorted(found, key=lambda s: (-s.busy, s.device, s.stream))

    def _of_stream(
        self, device: int, stream: int, operations: list[_Operation], origin: float, boundaries: list[float]
    ) -> StreamIdle:
        idle = between = longest = longest_at = 0.0
        first, end = operations[0].start, operations[0].end
        step = self._step_of(operations[0], origin, boundaries)
        for operation in operations[1:]:
            gap = operation.start - end
            at = self._step_of(operation, origin, boundaries)
            if gap > 0:
                idle += gap
                between += gap if at != step else 0.0
                if gap > longest:
                    longest, longest_at = gap, end - origin
            step = at
            end = max(end, operation.end)
        length = end - first
        share = (length - idle) / length if length > 0 else 1.0
        return StreamIdle(
            device, stream, len(operations), length - idle, share, idle, between, longest, longest_at
        )

    def _step_of(self, operation: _Operation, origin: float, boundaries: list[float]) -> int:
        launched = self._launched.get(operation.correlation, operation.start)
        return bisect_right(boundaries, launched - origin)
