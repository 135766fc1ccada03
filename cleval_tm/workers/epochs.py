"""What a step costs over a whole epoch, from the clock of epochs that were run, whole or in part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Epoch:
    """The clock of one epoch; all in seconds since its start."""

    ends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    startup: float = 0.0
    wall: float = 0.0
    whole: bool = False


def cost(epochs: Sequence[Epoch], length: int | None, workers: int, persistent: bool) -> tuple[float, float]:
    """Seconds per step over a whole epoch, and without what happens once an epoch.

    Whole epochs count as they are, without the first where workers persist: in training they start once. An
    epoch that was cut is continued to its length at the pace of its later part.
    """
    whole = [e for e in epochs if e.whole]
    steady = _pace((whole or epochs)[-1].ends, workers)
    counted = whole[1:] if persistent and len(whole) > 1 else whole
    if counted:
        return sum(e.wall for e in counted) / sum(len(e.ends) for e in counted), steady
    ends = epochs[-1].ends
    if persistent or length is None or length <= len(ends):
        return steady, steady
    return (ends[-1] + (length - len(ends)) * steady) / length, steady


def _pace(ends: list[float], workers: int) -> float:
    """Seconds per step in the later part; over multiples of ``workers`` steps, as these deliver in bursts."""
    steps = len(ends)
    if steps < 2:
        return ends[-1] / steps
    skip = max(1, steps // 3)
    if workers > 1 and steps - skip > workers:
        skip += (steps - skip) % workers
    return (ends[-1] - ends[skip - 1]) / (steps - skip)
