"""One trial: run a loop over loaders for a second or two and say what a step of a whole epoch costs."""

from __future__ import annotations

import gc
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch

from cleval_tm.workers import loaders as loading
from cleval_tm.workers.budget import processes_memory
from cleval_tm.workers.contention import Contention
from cleval_tm.workers.search import Setting, Trial

_FEWEST_STEPS = 8
_LONGEST = 8
_GRACE = 5.0


class Hung(RuntimeError):
    """Nothing came for longer than the timeout."""


class StepError(Exception):
    """The user's step raised: that is no matter of workers and ends the sweep. The cause has it."""


@dataclass
class _Epoch:
    """The clock of one epoch; all in seconds since its start."""

    ends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    startup: float = 0.0
    wall: float = 0.0
    whole: bool = False


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
        self._probed: set[int] = set()
        self.contention = Contention()
        self.batch_bytes = 0
        self.memory_per_worker = 0.0
        self.prefetch_factor: int | None = None
        self.epoch_lengths: dict[int, int] = {}

    def __call__(self, setting: Setting) -> Trial:
        """Run one trial; whatever loading raises becomes its failure.

        Raises:
            StepError: If the step raised.
        """
        before = {child.pid for child in loading.living_workers(set()) if child.pid is not None}
        built = self._source.build(setting, self._timeout)
        first = next(loading.leaves(built))
        options: dict[str, Any] = {
            "prefetch_factor": first.prefetch_factor,
            "persistent_workers": first.persistent_workers if setting.num_workers else None,
        }
        try:
            with _quiet(), _Watch(self._timeout + _GRACE * (setting.num_workers > 0)) as watch:
                trial = self._measured(built, setting, watch, before)
        except StepError:
            raise
        except Exception as error:
            # DataLoader waits five seconds for each worker that hangs; told to end first, they go at once.
            for child in loading.living_workers(before):
                child.terminate()
            error.__traceback__ = None  # its frames hold the iterator, and that its workers
            return Trial(failure=_described(error, self._timeout), **options)
        finally:
            del built, first
            _end_workers(before)
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
            self._probed.clear()

    def _measured(self, built: Any, setting: Setting, watch: _Watch, before: set[int]) -> Trial:
        known = loading.length(built, self._source.in_turn)
        if known is None:  # an iterable dataset's length shows when it ends
            known = self.epoch_lengths.get(0)
        known = self._cut if known is None else min(known, self._cut or known)
        if known == 0:
            raise ValueError(_no_batch(built))
        one = next(loading.leaves(built))
        with self.contention.watched() as use:
            begin = time.perf_counter()
            epochs: list[_Epoch] = []
            while not self._enough(epochs, begin, one.persistent_workers):
                epochs.append(self._epoch(built, begin, not epochs, watch, setting, known))
                if not epochs[-1].ends:
                    raise ValueError(_no_batch(built))
            memory = self._memory(built, setting, watch, before)
            wall = time.perf_counter() - begin
            loading.forget_workers(built)
            _end_workers(before)
        if epochs[0].whole:
            self.epoch_lengths.setdefault(setting.num_workers, len(epochs[0].ends))
        seconds, steady = cost(epochs, known, setting.num_workers, one.persistent_workers)
        return Trial(
            seconds_per_step=seconds,
            steady=steady,
            wait_share=sum(sum(e.waits) for e in epochs) / sum(e.wall for e in epochs),
            cpu_use=use.seconds / wall / self._cpus,
            memory_bytes=memory,
            startup_s=min(e.startup for e in epochs),
            steps=sum(len(e.ends) for e in epochs),
        )

    def _enough(self, epochs: list[_Epoch], begin: float, persistent: bool) -> bool:
        if not epochs:
            return False
        whole = sum(e.whole for e in epochs) - persistent
        return not epochs[-1].whole or (time.perf_counter() - begin >= self._seconds and whole > 0)

    def _epoch(
        self, built: Any, begin: float, first: bool, watch: _Watch, setting: Setting, known: int | None
    ) -> _Epoch:
        """Run one epoch, or as much of a long first one as a trial takes."""
        epoch = _Epoch()
        clock = time.perf_counter
        fewest = max(_FEWEST_STEPS, 3 * setting.num_workers)
        watch.arm()
        start = clock()
        iterator = loading.batches(built, self._source.in_turn)
        while True:
            asked = clock()
            batch = next(iterator, _END)
            got = clock()
            if batch is _END:
                epoch.whole = True
                break
            if not epoch.ends:
                epoch.startup = got - start
                self.batch_bytes = max(self.batch_bytes, loading.tensor_bytes(batch))
            watch.arm()
            self._run_step(batch)
            watch.arm()
            epoch.waits.append(got - asked)
            epoch.ends.append(clock() - start)
            if len(epoch.ends) == self._cut:
                epoch.whole = True
                break
            if first and self._cut_short(epoch, clock() - begin, fewest, known):
                break
        del iterator
        _synchronize()
        epoch.wall = clock() - start
        return epoch

    def _cut_short(self, epoch: _Epoch, elapsed: float, fewest: int, known: int | None) -> bool:
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
        except Hung:
            raise
        except Exception as error:
            raise StepError from error

    def _memory(self, built: Any, setting: Setting, watch: _Watch, before: set[int]) -> int | None:
        """Memory of the workers, measured once for each number of them."""
        if not setting.num_workers or setting.num_workers in self._probed:
            return None
        self._probed.add(setting.num_workers)
        watch.arm()
        iterator = loading.batches(built, self._source.in_turn)
        next(iterator, None)
        memory = processes_memory(child.pid for child in loading.living_workers(before) if child.pid)
        self.memory_per_worker = max(self.memory_per_worker, memory / setting.num_workers)
        self.prefetch_factor = next(loading.leaves(built)).prefetch_factor
        return memory


_END = object()


def cost(epochs: list[_Epoch], length: int | None, workers: int, persistent: bool) -> tuple[float, float]:
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


class _Watch:
    """Raises :class:`Hung` in the main thread when nothing called :meth:`arm` for ``seconds``.

    DataLoader's own timeout guards workers only; a hang without workers, or in their start, needs an alarm.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Watch:
        if self._works:
            self._handler = signal.signal(signal.SIGALRM, self._ring)
            self._since = time.monotonic()
            self._timer = signal.setitimer(signal.ITIMER_REAL, self._seconds)
        return self

    def arm(self) -> None:
        if self._works:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if not self._works:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        delay, interval = self._timer
        if delay:  # somebody else's alarm was running: it rings when it would have
            delay = max(1e-3, delay - (time.monotonic() - self._since))
            signal.setitimer(signal.ITIMER_REAL, delay, interval)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise Hung


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DataLoader's warning about many workers: whether they are too many is being measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def _end_workers(before: set[int]) -> None:
    """Make sure that no worker outlives its trial, hung ones included."""
    if not loading.living_workers(before):
        return
    gc.collect()
    for end in ("terminate", "kill"):
        left = loading.living_workers(before)
        for child in left:
            getattr(child, end)()
        for child in left:
            child.join(_GRACE)


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def _described(error: Exception, timeout: float) -> str:
    if isinstance(error, Hung) or "timed out after" in str(error):
        return f"no batch for {timeout:g} s (hung)"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    # An exception from a worker carries the worker's traceback; its last line is the exception itself.
    text = lines[-1].strip() if lines else ""
    return text if text.startswith(type(error).__name__) else f"{type(error).__name__}: {text}"


def _no_batch(built: Any) -> str:
    one = next(loading.leaves(built))
    try:
        samples = f"{len(one.dataset)} samples"  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        samples = "an iterable dataset"
    return f"the loader gives no batch ({samples}, batch_size={one.batch_size}, drop_last={one.drop_last})"
