"""One trial: run a loop over loaders for a second or two and say what a step of a whole epoch costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cleval_tm.workers import loaders as loading
from cleval_tm.workers.contention import Contention, CpuTime
from cleval_tm.workers.epochs import Epoch, cost
from cleval_tm.workers.guard import (
    GRACE,
    StepError,
    Watch,
    end_workers,
    guarded,
    is_of_loading,
    synchronize,
)
from cleval_tm.workers.memory import MemoryUse
from cleval_tm.workers.search import Setting, Trial

_END = object()
_FEWEST_STEPS = 8
_LONGEST = 8


class LoaderTrials:
    """Runs trials of a source's loaders; callable with a setting, as
    :class:`~cleval_tm.workers.search.Search` wants.

    Args:
        source: Makes the loaders.
        step: Called with each batch; None only fetches.
        cpus: The CPU budget, for the share of it that is used.
        seconds: How long a trial runs at least (whole epochs, where these are short).
        timeout: Seconds without a batch after which a trial counts as hung.
        steps_per_epoch: Where an epoch is cut; None runs to the loader's end.
    """

    def __init__(
        self,
        source: loading.Source,
        step: Callable[[Any], object] | None,
        *,
        cpus: float,
        seconds: float = 1.5,
        timeout: float = 60.0,
        steps_per_epoch: int | None = None,
    ) -> None:
        self._source = source
        self._step = step
        self._cpus = cpus
        self._seconds = seconds
        self._timeout = timeout
        self._cut = steps_per_epoch
        self.contention = Contention()
        self.memory = MemoryUse()
        self.epoch_lengths: dict[int, int] = {}

    def __call__(self, setting: Setting) -> Trial:
        """Run one trial; whatever loading raises becomes its failure.

        Raises:
            StepError: If the step raised.
        """
        built = self._source.build(setting, self._timeout)
        options = options_of(built)
        watch = Watch(self._timeout + GRACE * (setting.num_workers > 0))
        trial = guarded(lambda before: self._measured(built, setting, watch, before), watch, self._timeout)
        return replace(trial, **options)

    def warm_up(self, setting: Setting) -> None:
        """A few steps that nobody counts: they fill file caches, compile, allocate.

        Raises:
            StepError: If the step raised.
        """
        seconds, self._seconds = self._seconds, self._seconds / 4
        try:
            self(setting)
        finally:
            self._seconds = seconds
            self.contention = Contention()
            self.memory.forget()

    def _measured(self, built: Any, setting: Setting, watch: Watch, before: set[int]) -> Trial:
        known = loading.length(built, self._source.in_turn)
        if known is None:  # an iterable dataset's length shows when it ends
            known = self.epoch_lengths.get(0)
        known = self._cut if known is None else min(known, self._cut or known)
        if known == 0:
            raise ValueError(_no_batch(built))
        one = next(loading.leaves(built))
        with self.contention.watched() as use:
            begin = time.perf_counter()
            epochs: list[Epoch] = []
            while not self._enough(epochs, begin, one.persistent_workers):
                epochs.append(self._epoch(built, begin, not epochs, watch, setting, known))
                if not epochs[-1].ends:
                    raise ValueError(_no_batch(built))
            memory = self._memory(built, setting, watch, before)
            loading.forget_workers(built)
            end_workers(before)
        if epochs[0].whole:
            self.epoch_lengths.setdefault(setting.num_workers, len(epochs[0].ends))
        return replace(measured(epochs, known, one, use, self._cpus), memory_bytes=memory)

    def _enough(self, epochs: list[Epoch], begin: float, persistent: bool) -> bool:
        if not epochs:
            return False
        whole = sum(e.whole for e in epochs) - persistent
        return not epochs[-1].whole or (time.perf_counter() - begin >= self._seconds and whole > 0)

    def _epoch(
        self, built: Any, begin: float, first: bool, watch: Watch, setting: Setting, known: int | None
    ) -> Epoch:
        """Run one epoch, or as much of a long first one as a trial takes."""
        epoch = Epoch()
        clock = time.perf_counter
        fewest = max(_FEWEST_STEPS, 3 * setting.num_workers)
        watch.arm()
        start = clock()
        asked = start
        iterator = loading.batches(built, self._source.in_turn)
        while True:
            batch = next(iterator, _END)
            got = clock()
            if batch is _END:
                epoch.last_wait = got - asked
                epoch.whole = True
                break
            if not epoch.ends:
                self.memory.saw(batch)
            watch.arm()
            self._run_step(batch)
            watch.arm()
            epoch.waits.append(got - asked)
            asked = clock()
            epoch.ends.append(asked - start)
            if len(epoch.ends) == self._cut:
                epoch.whole = True
                break
            if first and self._cut_short(epoch, clock() - begin, fewest, known):
                break
        del iterator
        synchronize()
        epoch.wall = clock() - start
        return epoch

    def _cut_short(self, epoch: Epoch, elapsed: float, fewest: int, known: int | None) -> bool:
        """Whether a first epoch is too long to be run to its end."""
        steps = len(epoch.ends)
        if elapsed < self._seconds or (steps < fewest and elapsed < _LONGEST * self._seconds):
            return False
        left = float("inf") if known is None else (known - steps) * epoch.ends[-1] / steps
        return left > self._seconds

    def _run_step(self, batch: Any) -> None:
        if self._step is None:
            return
        try:
            self._step(batch)
        except Exception as error:
            if is_of_loading(error):
                raise
            raise StepError from error

    def _memory(self, built: Any, setting: Setting, watch: Watch, before: set[int]) -> int | None:
        """Memory of the workers, measured once for each number of them."""
        if not self.memory.wanted(setting.num_workers):
            return None
        watch.arm()
        iterator = loading.batches(built, self._source.in_turn)
        next(iterator, None)
        return self.memory.measure(setting.num_workers, next(loading.leaves(built)).prefetch_factor, before)


def options_of(loaders: Any) -> dict[str, Any]:
    """The other settings under which a trial ran, as fields of :class:`~cleval_tm.workers.search.Trial`."""
    one = next(loading.leaves(loaders))
    persistent = one.persistent_workers if one.num_workers else None
    return {"prefetch_factor": one.prefetch_factor, "persistent_workers": persistent}


def measured(epochs: list[Epoch], length: int | None, loaders: Any, use: CpuTime, cpus: float) -> Trial:
    """What epochs of ``length`` batches cost that were run with ``loaders``, wholly or in part."""
    one = next(loading.leaves(loaders))
    found = cost(epochs, length, one.num_workers, one.persistent_workers)
    return Trial(
        seconds_per_step=found.seconds_per_step,
        steady=found.steady,
        wait_share=found.wait_share,
        cpu_use=use.seconds / use.wall / cpus,
        startup_s=min(epoch.waits[0] for epoch in epochs),
        steps=sum(len(epoch.ends) for epoch in epochs),
    )


def _no_batch(built: Any) -> str:
    one = next(loading.leaves(built))
    try:
        samples = f"{len(one.dataset)} samples"  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        samples = "an iterable dataset"
    return f"the loader gives no batch ({samples}, batch_size={one.batch_size}, drop_last={one.drop_last})"
