"""One trial through Lightning: a short fit (or validation run) of the user's model by a copy of the user's Trainer."""

from __future__ import annotations

import copy
import importlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cleval_tm.workers import loaders as loading
from cleval_tm.workers.contention import Contention
from cleval_tm.workers.epochs import Epoch
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
from cleval_tm.workers.trial import measured, options_of

_END = object()
_FEWEST_STEPS = 8
_LOADED = ("_combined_loader", "_data_source", "_data_fetcher")
_LIMITS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
_HOOKS = {"fit": "train", "validate": "validation", "test": "test", "predict": "predict"}


class FitTrials:
    """Runs trials of a model through its Trainer; callable with a setting, as a search wants it.

    Args:
        trainer: The user's; every trial works on a copy of it, without callbacks, loggers and profiler.
        model: The user's LightningModule. Fits change it; the caller restores it.
        owner: The object whose method ``loader`` makes the loaders: datamodule or model.
        loader: That method's name, such as ``"train_dataloader"``.
        datamodule: Handed to the Trainer; None if the model brings its own loaders.
        verb: The Trainer's method: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        cpus: The CPU budget, for the share of it that is used.
        seconds: How long a trial runs at least, where ``max_steps`` is None.
        max_steps: Batches in a trial.
        timeout: Seconds without a batch after which a trial counts as hung.
    """

    def __init__(
        self,
        trainer: Any,
        model: Any,
        owner: Any,
        loader: str,
        datamodule: Any,
        verb: str,
        *,
        cpus: float,
        seconds: float,
        max_steps: int | None,
        timeout: float,
    ) -> None:
        self._trainer = trainer
        self._model = model
        self._owner = owner
        self._loader = loader
        self._datamodule = datamodule
        self._verb = verb
        self._cpus = cpus
        self._seconds = seconds
        self._steps = max_steps
        self._timeout = timeout
        self.contention = Contention()
        self.memory = MemoryUse()
        self.epoch_lengths: dict[int, int] = {}
        self.current: int | None = None
        self.length: int | None = None
        self.base: Any = None

    def warm_up(self) -> None:
        """A few steps that show the current value, how long a step is, and warm what can be warmed."""
        steps, self._steps = self._steps, self._steps or _FEWEST_STEPS
        trial = self._run(None)
        self._steps = steps
        if steps is None:
            pace = trial.steady or trial.seconds_per_step or self._seconds
            self._steps = max(_FEWEST_STEPS, round(self._seconds / pace))
        self.contention = Contention()
        self.memory.forget()

    def __call__(self, setting: Setting) -> Trial:
        """Run one trial; whatever loading raises becomes its failure.

        Raises:
            StepError: If the model raised.
        """
        return self._run(setting)

    def _run(self, setting: Setting | None) -> Trial:
        made: list[Any] = []
        watch = Watch(self._timeout + GRACE)
        steps = max(self._steps or 0, 3 * setting.num_workers if setting else 0)
        clock = _clock(self._trainer, self._verb, steps, watch)

        def run(before: set[int]) -> Trial:
            try:
                with _silent():
                    return self._measured(setting, clock, made, before)
            except Exception as error:
                of_the_user = clock.in_step or (setting is None and not made)
                if of_the_user and not is_of_loading(error):
                    raise StepError from error
                raise
            finally:
                clock.probe = None

        trial = guarded(run, watch, self._timeout)
        return replace(trial, **options_of(made[-1])) if made else trial

    def _measured(self, setting: Setting | None, clock: Any, made: list[Any], before: set[int]) -> Trial:
        twin = self._twin()
        twin.callbacks = [clock]
        clock.probe = lambda: self._memory(made[-1], before)
        with self._loaders_changed(setting, clock, made), self.contention.watched() as use:
            while not clock.enough:
                taken = clock.batches
                self._run_twin(twin, clock.steps)
                if clock.batches == taken:
                    break
            self._model.trainer = None  # it holds the copy, that its iterators, and these their workers
            del twin
            for loaders in made:
                loading.forget_workers(loaders)
            end_workers(before)
        epochs = [epoch for epoch in clock.epochs if epoch.ends]
        if not epochs:
            raise ValueError(f"`{self._loader}` gives no batch")
        return replace(measured(epochs, self.length, made[-1], use, self._cpus), memory_bytes=clock.memory)

    def _memory(self, loaders: Any, before: set[int]) -> int | None:
        one = next(loading.leaves(loaders))
        if not self.memory.wanted(one.num_workers):
            return None
        return self.memory.measure(one.num_workers, one.prefetch_factor, before)

    def _run_twin(self, twin: Any, steps: int) -> None:
        given = {} if self._datamodule is None else {"datamodule": self._datamodule}
        if self._verb == "fit":
            twin.fit_loop.epoch_loop.max_steps = twin.global_step + -(-steps // twin.accumulate_grad_batches)
            twin.fit_loop.max_epochs, twin.fit_loop.min_epochs = -1, None
            twin.fit_loop.epoch_loop.min_steps = None
            twin.limit_val_batches = 0
            twin.num_sanity_val_steps = 0
            twin.fit(self._model, **given)
        else:
            if self.length is None or steps < self.length:
                setattr(twin, f"limit_{_LIMITS[self._verb]}_batches", steps)
            options = {"return_predictions": False} if self._verb == "predict" else {"verbose": False}
            getattr(twin, self._verb)(self._model, **given, **options)

    def _twin(self) -> Any:
        """A copy of the Trainer that shares what is large and lacks what has effects outside."""
        trainer = self._trainer
        profiler = importlib.import_module(f"{package_of(trainer)}.profilers").PassThroughProfiler()
        memo: dict[int, Any] = {id(trainer.profiler): profiler}
        shared = [self._model, self._datamodule, getattr(trainer, "datamodule", None)]
        loops = [
            trainer.fit_loop,
            trainer.fit_loop.epoch_loop.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
        ]
        # After a fit the loops hold its loaders; copies of datasets could be large, of iterators impossible.
        shared += [vars(loop).get(name) for loop in (*loops, trainer.predict_loop) for name in _LOADED]
        for part in [*shared, *self._model.parameters(), *self._model.buffers()]:
            memo[id(part)] = part
        callbacks, loggers = trainer.callbacks, trainer.loggers
        trainer.callbacks, trainer.loggers = [], []
        try:
            return copy.deepcopy(trainer, memo)
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers

    @contextmanager
    def _loaders_changed(self, setting: Setting | None, clock: Any, made: list[Any]) -> Iterator[None]:
        """Give the Trainer copies of the owner's loaders with the setting, and note when it asks for them."""
        original = getattr(self._owner, self._loader)

        def give(*_: Any) -> Any:
            base = original()
            if setting is None:
                self.base = base
                self.current = loading.current_workers(base)
                self.length = loading.length(base, self._verb != "fit")
                self.length = _limited(self.length, self._trainer, self._verb)
            given = setting or Setting(self.current or 0)
            clock.length = self.length
            made.append(loading.changed(base, given, self._timeout))
            for one in loading.leaves(made[-1]):
                one.__class__ = _timed(type(one), clock)
            clock.begins()
            return made[-1]

        vars(self._owner)[self._loader] = give
        try:
            yield
        finally:
            del vars(self._owner)[self._loader]


def _limited(length: int | None, trainer: Any, verb: str) -> int | None:
    """The epoch's length with the Trainer's ``limit_*_batches``: a number of batches, or a share of them."""
    limit = getattr(trainer, f"limit_{_LIMITS[verb]}_batches", None)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        return length
    if isinstance(limit, int):
        return limit if length is None else min(length, limit)
    return None if length is None else max(1, int(length * limit))


class _Clock:
    """Notes when batches are asked for, come, and are done. Becomes a callback together with Lightning's class."""

    def __init__(self, steps: int, watch: Watch, verb: str) -> None:
        self.steps = steps
        self.in_step = False
        self.watch = watch
        self.fitting = verb == "fit"
        self.length: int | None = None
        self.batches = 0
        self.epochs: list[Epoch] = []
        self.memory: int | None = None
        self.probe: Callable[[], int | None] | None = None
        self._start = 0.0
        self._waited = 0.0
        for event in ("batch_start", "batch_end", "epoch_end"):
            setattr(self, f"on_{_HOOKS[verb]}_{event}", getattr(self, f"_{event}"))

    @property
    def enough(self) -> bool:
        return self.batches >= self.steps

    def begins(self) -> None:
        """The Trainer asks for its loaders: the first epoch starts."""
        self.watch.arm()
        self._start, self._waited = time.perf_counter(), 0.0
        self.epochs.append(Epoch())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A loader is asked for its batches, or for the next one."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - begin

    def _waited_since(self) -> float:
        waited, self._waited = self._waited, 0.0
        return waited

    def _batch_start(self, trainer: Any, *_: Any) -> None:
        self.watch.arm()
        self.in_step = True
        self.epochs[-1].waits.append(self._waited_since())
        self.batches += 1

    def _batch_end(self, trainer: Any, *_: Any) -> None:
        self.in_step = False
        self.watch.arm()
        if self.enough:
            synchronize()
            trainer.should_stop = True
        epoch = self.epochs[-1]
        epoch.ends.append(time.perf_counter() - self._start)
        epoch.wall = epoch.ends[-1]
        if self.enough and self.probe is not None:
            self.memory = self.probe()

    def _epoch_end(self, trainer: Any, *_: Any) -> None:
        epoch = self.epochs[-1]
        epoch.last_wait = self._waited_since()
        epoch.whole = trainer.is_last_batch if self.fitting else len(epoch.ends) >= (self.length or math.inf)
        self._start = time.perf_counter()
        self.epochs.append(Epoch())


def _timed(kind: type[Any], clock: _Clock) -> type[Any]:
    """A kind of loader that tells the clock how long its batches were waited for.

    The Trainer's hooks come too late for that: by then the batch was moved to the device, for which the host waits
    until the device has done the steps before.
    """

    def batches(loader: Any) -> Iterator[Any]:
        with clock.waiting():
            iterator = kind.__iter__(loader)
        return _watched(iterator, clock)

    return type(kind.__name__, (kind,), {"__iter__": batches})


def _watched(iterator: Iterator[Any], clock: _Clock) -> Iterator[Any]:
    while True:
        with clock.waiting():
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield batch


def _clock(trainer: Any, verb: str, steps: int, watch: Watch) -> Any:
    callback = importlib.import_module(f"{package_of(trainer)}.callbacks").Callback
    return type("WorkerClock", (_Clock, callback), {})(steps, watch, verb)


def package_of(trainer: Any) -> str:
    """``lightning.pytorch`` or ``pytorch_lightning``: their callbacks are different classes."""
    names = [kind.__module__ for kind in type(trainer).__mro__]
    return (
        "pytorch_lightning" if any(n.startswith("pytorch_lightning.") for n in names) else "lightning.pytorch"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without Lightning's remarks on each fit: on hardware, on few workers, on ``max_steps`` reached."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.|pytorch_lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
