"""Gets a trial through trouble: hangs, workers that outlive it, warnings that do not apply."""

from __future__ import annotations

import gc
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from cleval_tm.workers.loaders import living_workers
from cleval_tm.workers.search import Trial

GRACE = 5.0
"""Seconds that workers get to end by themselves."""


class Hung(RuntimeError):
    """Nothing came for longer than the timeout."""


class StepError(Exception):
    """The user's step raised: that is no matter of workers and ends the sweep. The cause has it."""


def is_of_loading(error: Exception) -> bool:
    """Whether an exception that rose in the step is none of the step's: torch reports a dead worker at any time."""
    return isinstance(error, Hung) or "DataLoader worker" in str(error)


class Watch:
    """Raises :class:`Hung` in the main thread when nothing called :meth:`arm` for ``seconds``.

    DataLoader's own timeout guards workers only; a hang without workers, or in their start, needs an alarm.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watch:
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
def quiet() -> Iterator[None]:
    """Without DataLoader's warning about many workers: whether they are too many is being measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def guarded(run: Callable[[set[int]], Trial], watch: Watch, timeout: float) -> Trial:
    """Run a trial so that no worker outlives it, and whatever loading raises becomes its failure.

    Args:
        run: Gets the ids of the children that are there already.
        watch: Guards against hangs without workers.
        timeout: Seconds without a batch after which the trial counted as hung, for the failure's words.

    Raises:
        StepError: If ``run`` does.
    """
    before = {child.pid for child in living_workers(set()) if child.pid is not None}
    try:
        with watch:
            return run(before)
    except StepError:
        raise
    except Exception as error:
        # DataLoader waits five seconds for each worker that hangs; told to end first, they go at once.
        for child in living_workers(before):
            child.terminate()
        error.__traceback__ = None  # its frames hold the iterator, and that its workers
        return Trial(failure=_described(error, timeout))
    finally:
        end_workers(before)


def end_workers(before: set[int]) -> None:
    """Make sure that no worker outlives its trial, hung ones included."""
    if not living_workers(before):
        return
    gc.collect()
    for end in ("terminate", "kill"):
        left = living_workers(before)
        for child in left:
            getattr(child, end)()
        for child in left:
            child.join(GRACE)


def synchronize() -> None:
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
