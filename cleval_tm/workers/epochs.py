"""What a step costs over a whole epoch, from the clock of epochs that were run, whole or in part.

Also the one definition of waiting: the time from when a loop asks its loader until it has a batch, or hears that there
is none left. The first batch of an epoch is asked for by starting the epoch, so the start of the workers is waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Epoch:
    """The clock of one epoch; all in seconds.

    Attributes:
        ends: When each step ended, since the start of the epoch.
        waits: How long each step's batch was waited for; the first's with the start of the workers.
        last_wait: How long it took to hear that there is no batch left; workers end in it.
        wall: The whole epoch.
        whole: Whether it was run to its end.
    """

    ends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    last_wait: float = 0.0
    wall: float = 0.0
    whole: bool = False

    @property
    def waited(self) -> float:
        """All waiting in it."""
        return sum(self.waits) + self.last_wait


@dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
        seconds_per_step: Wall time per step over a whole epoch, its start and end included.
        steady: The same without what happens once an epoch.
        wait_share: Share of ``seconds_per_step`` that is spent waiting, 0 to 1.
    """

    seconds_per_step: float
    steady: float
    wait_share: float


def cost(epochs: Sequence[Epoch], length: int | None, workers: int, persistent: bool) -> Cost:
    """What a step costs over whole epochs of ``length`` batches.

    Whole epochs count as they are, without the first where workers persist: in training they start once. An
    epoch that was cut is continued to its length at the pace of its later part.
    """
    whole = [e for e in epochs if e.whole]
    later = _Later.of((whole or epochs)[-1], workers)
    counted = whole[1:] if persistent and len(whole) > 1 else whole
    if counted:
        wall, steps = sum(e.wall for e in counted), sum(len(e.ends) for e in counted)
        return _cost(wall, sum(e.waited for e in counted), steps, later)
    cut = epochs[-1]
    left = 0 if length is None else length - len(cut.ends)
    if persistent or left <= 0:
        return _cost(later.pace, later.wait, 1, later)
    wall, waited = cut.ends[-1] + left * later.pace, sum(cut.waits) + left * later.wait
    return _cost(wall, waited, len(cut.ends) + left, later)


def _cost(wall: float, waited: float, steps: int, later: _Later) -> Cost:
    return Cost(wall / steps, later.pace, min(1.0, waited / wall))


@dataclass(frozen=True)
class _Later:
    """The later part of an epoch: seconds per step, and those of them that are waiting."""

    pace: float
    wait: float

    @classmethod
    def of(cls, epoch: Epoch, workers: int) -> _Later:
        """Over multiples of ``workers`` steps, as these deliver in bursts."""
        steps, ends = len(epoch.ends), epoch.ends
        if steps < 2:
            return cls(ends[-1] / steps, epoch.waits[0])
        skip = max(1, steps // 3)
        if workers > 1 and steps - skip > workers:
            skip += (steps - skip) % workers
        count = steps - skip
        return cls((ends[-1] - ends[skip - 1]) / count, sum(epoch.waits[skip:]) / count)
