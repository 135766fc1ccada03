"""The order of measuring: which candidate next, how often, when to stop. Knows no loader.

``measure`` is a callable, so the same search drives loops over a loader and fits of a Lightning trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from cleval_tm.workers.choice import TOLERANCE, Choice, choose, compare
from cleval_tm.workers.result import WorkerResult

LADDER = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Candidates in the order in which they are tried; the search goes up as long as it helps."""

_HELPS = 0.97
_PAST_THE_BEST = 2
_PATIENCE = 2.0


@dataclass(frozen=True)
class Setting:
    """What one trial sets; None leaves an option as the loader has it."""

    num_workers: int
    prefetch_factor: int | None = None
    persistent_workers: bool | None = None

    def __str__(self) -> str:
        text = f"{self.num_workers} worker{'' if self.num_workers == 1 else 's'}"
        if self.prefetch_factor is not None:
            text += f", prefetch_factor={self.prefetch_factor}"
        return (
            text
            if self.persistent_workers is None
            else f"{text}, persistent_workers={self.persistent_workers}"
        )


@dataclass(frozen=True)
class Trial:
    """What one trial measured.

    Attributes:
        seconds_per_step: Wall time per step over a whole epoch, its boundaries included; None if it failed.
        steady: Wall time per step without the start of the epoch.
        wait_share, cpu_use, memory_bytes, startup_s, steps, prefetch_factor, persistent_workers: As in
            :class:`~cleval_tm.workers.result.WorkerResult`.
        failure: What went wrong; None if nothing did.
    """

    seconds_per_step: float | None = None
    steady: float | None = None
    wait_share: float | None = None
    cpu_use: float | None = None
    memory_bytes: int | None = None
    startup_s: float | None = None
    steps: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool | None = None
    failure: str | None = None


Measure = Callable[[Setting], Trial]
Fits = Callable[[Setting], str | None]
Progress = Callable[[str, float, float], None]


@dataclass
class _Series:
    """The trials of one setting by round."""

    setting: Setting
    trials: dict[int, Trial] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    skipped: str | None = None

    @property
    def times(self) -> dict[int, float]:
        if self.skipped or any(trial.failure for trial in self.trials.values()):
            return {}
        return {
            number: t.seconds_per_step for number, t in self.trials.items() if t.seconds_per_step is not None
        }

    def row(self) -> WorkerResult:
        trials = list(self.trials.values())
        good = {number: t for number, t in sorted(self.trials.items()) if t.seconds_per_step is not None}
        last = trials[-1] if trials else Trial()
        return WorkerResult(
            num_workers=self.setting.num_workers,
            times=tuple(t.seconds_per_step for t in good.values() if t.seconds_per_step is not None),
            rounds=tuple(good),
            wait_share=_median(t.wait_share for t in good.values()),
            cpu_use=_median(t.cpu_use for t in good.values()),
            memory_bytes=max((t.memory_bytes for t in trials if t.memory_bytes is not None), default=None),
            startup_s=_median(t.startup_s for t in good.values()),
            steady=_median(t.steady for t in good.values()),
            steps=sum(t.steps for t in trials),
            prefetch_factor=last.prefetch_factor,
            persistent_workers=last.persistent_workers,
            failures=tuple(t.failure for t in trials if t.failure),
            skipped=self.skipped,
        )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


class Search:
    """Measures candidates in interleaved rounds until the choice is clear.

    Args:
        measure: Runs one trial of a setting. Reports failures in the trial, raises only what must end all.
        fits: Says why a setting must not be measured (memory), or None.
        current: The value in use now; always measured.
        candidates: Exactly these, with 0 and ``current``; None climbs :data:`LADDER` as long as it helps.
        repeats: Rounds for every candidate.
        max_repeats: Rounds for candidates still unclear then, for twice as long again.
        progress: Told before each trial: what comes, seconds gone, seconds left (an estimate).
    """

    def __init__(
        self,
        measure: Measure,
        *,
        fits: Fits = lambda setting: None,
        current: int | None = None,
        candidates: Sequence[int] | None = None,
        repeats: int = 3,
        max_repeats: int = 15,
        progress: Progress | None = None,
    ) -> None:
        self._measure = measure
        self._fits = fits
        self._current = current
        self._given = None if candidates is None else sorted({0, *candidates, *_known(current)})
        self._repeats = repeats
        self._max_repeats = max(repeats, max_repeats)
        self._progress = progress
        self._series: dict[Setting, _Series] = {}
        self._round = 0
        self._start = time.perf_counter()

    def run(self) -> None:
        """Measure all candidates; afterwards :meth:`results` has them."""
        self._climb()
        self._rounds(self._alive(), self._repeats - 1)
        patience = (1 + _PATIENCE) * (time.perf_counter() - self._start)
        while True:
            if more := self._beyond():
                self._rounds([*self._contenders(), *more], self._repeats)
            elif time.perf_counter() - self._start < patience and (unclear := self._undecided()):
                self._rounds(unclear, 1)
            else:
                break

    def results(self) -> tuple[WorkerResult, ...]:
        """A row for each number of workers."""
        return tuple(s.row() for s in self._series.values() if s.setting == Setting(s.setting.num_workers))

    def variants(self) -> tuple[WorkerResult, ...]:
        """A row for each variant tried."""
        return tuple(s.row() for s in self._series.values() if s.setting != Setting(s.setting.num_workers))

    def choice(self) -> Choice | None:
        """The choice so far; None if nothing could be measured."""
        times = {s.setting.num_workers: s.times for s in self._plain() if s.times}
        return choose(times, self._current) if times else None

    def steady(self, num_workers: int) -> float | None:
        """Median time per step without the start of the epoch."""
        series = self._series.get(Setting(num_workers))
        return _median(trial.steady for trial in series.trials.values()) if series else None

    def try_variants(self, settings: Sequence[Setting], bases: Sequence[int]) -> None:
        """Measure variants, in rounds with the candidates ``bases`` that they are compared with."""
        self._rounds([*(Setting(workers) for workers in bases), *settings], self._repeats)

    def faster(self, setting: Setting, base: Setting) -> bool:
        """Whether ``setting`` measured clearly faster than ``base``."""
        mine, other = self._series[setting].times, self._series[base].times
        if not mine or not other:
            return False
        result = compare(mine, other)
        return result.ratio < 1 - max(TOLERANCE, result.noise)

    def _plain(self) -> list[_Series]:
        return [s for s in self._series.values() if s.setting == Setting(s.setting.num_workers)]

    def _alive(self) -> list[Setting]:
        return [s.setting for s in self._plain() if s.times]

    def _climb(self) -> None:
        """The first round, upwards; without given candidates it ends after two that don't help."""
        if self._given is not None:
            self._rounds([Setting(workers) for workers in self._given], 1)
            return
        best, idle = float("inf"), 0
        climbed: list[int] = []
        for workers in LADDER:
            left = [Setting(w) for w in LADDER[len(climbed) + 1 : len(climbed) + 1 + _PAST_THE_BEST - idle]]
            self._one(Setting(workers), self._round, [*left, *map(Setting, _known(self._current))])
            climbed.append(workers)
            seconds = self._series[Setting(workers)].times.get(self._round, float("inf"))
            idle = 0 if seconds < best * _HELPS else idle + 1
            best = min(best, seconds)
            if idle >= _PAST_THE_BEST and workers > 1:
                break
        for workers in _known(self._current):
            if workers not in climbed:
                self._one(Setting(workers), self._round, [])
        self._round += 1

    def _beyond(self) -> list[Setting]:
        """Rungs not measured yet, up to the second above the fewest that are as fast as the fastest."""
        choice = self.choice()
        if choice is None or self._given is not None:
            return []
        fewest = choice.equal[0]
        above = [w for w in LADDER if w > fewest][:_PAST_THE_BEST]
        wanted = [Setting(w) for w in LADDER if w <= max(above, default=fewest)]
        return [setting for setting in wanted if setting not in self._series]

    def _contenders(self) -> list[Setting]:
        choice = self.choice()
        if choice is None:
            return []
        numbers = {choice.fastest, choice.suggestion, *_known(self._current)}
        return [setting for setting in self._alive() if setting.num_workers in numbers]

    def _undecided(self) -> list[Setting]:
        """Candidates whose noise hides on which side of the line they are, and what to compare them with."""
        choice = self.choice()
        if choice is None:
            return []
        doubtful = {
            workers
            for workers, result in choice.against_fastest.items()
            if result.noise > TOLERANCE and abs(result.ratio - 1 - TOLERANCE) < result.noise
            if workers <= choice.suggestion or workers == self._current or result.unclear
        } - {choice.fastest}
        chosen = [s for s in self._alive() if s.num_workers in doubtful]
        if not any(len(self._series[s].times) < self._max_repeats for s in chosen):
            return []
        return [*chosen, *(s for s in self._contenders() if s not in chosen)]

    def _rounds(self, settings: Sequence[Setting], count: int) -> None:
        for number in range(count):
            # Every other round runs downwards, so that a drift of the machine's speed favours nobody.
            order = sorted(settings, key=_order, reverse=self._round % 2 == 1)
            for place, setting in enumerate(order):
                after = [*order[place + 1 :], *(list(order) * (count - 1 - number))]
                self._one(setting, self._round, after)
            self._round += 1

    def _one(self, setting: Setting, number: int, after: Sequence[Setting]) -> None:
        series = self._series.setdefault(setting, _Series(setting))
        if series.skipped or any(trial.failure for trial in series.trials.values()):
            return
        reason = self._fits(setting)
        if reason is not None and not series.trials:
            series.skipped = reason
            return
        begin = time.perf_counter()
        if self._progress is not None:
            left = sum(self._expected(other) for other in (setting, *after))
            self._progress(f"{setting}, round {number + 1}", begin - self._start, left)
        series.trials[number] = self._measure(setting)
        series.seconds.append(time.perf_counter() - begin)

    def _expected(self, setting: Setting) -> float:
        series = self._series.get(setting)
        own = series.seconds if series else []
        if not own and setting.num_workers in (s.setting.num_workers for s in self._plain()):
            own = self._series.get(Setting(setting.num_workers), _Series(setting)).seconds
        known = own or [seconds for s in self._series.values() for seconds in s.seconds]
        return median(known) if known else 0.0


def _known(value: int | None) -> tuple[int, ...]:
    return () if value is None else (value,)


def _order(setting: Setting) -> tuple[int, int, bool]:
    return setting.num_workers, setting.prefetch_factor or 0, bool(setting.persistent_workers)
