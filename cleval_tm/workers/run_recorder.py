"""What StepTraceCallback does during one call of ``fit``, ``validate``, ``test`` or ``predict``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.autograd import profiler as autograd_profiler

from cleval_tm.workers.cpu_sampler import CpuSampler, CpuUse
from cleval_tm.workers.profile_window import ENOUGH, ProfileWindow
from cleval_tm.workers.record import RecordWriter
from cleval_tm.workers.run_settings import loader_settings, run_settings, write_json
from cleval_tm.workers.trace import wait_label

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from cleval_tm.workers.callback import StepTraceCallback

_EVALUATION = ("val", "test", "predict")
# The names under which Lightning's loops announce a fetch and a step to the trainer's profiler.
_FETCHES = {
    ".train_dataloader_next": "train",
    ".val_next": "val",
    ".test_next": "test",
    ".predict_next": "predict",
}
_STARTING = "start of an epoch"
_STEPS = {".validation_step": "val", ".test_step": "test", ".predict_step": "predict"}


class RunRecorder:
    """One call of ``fit``, ``validate``, ``test`` or ``predict``, recorded."""

    def __init__(self, config: StepTraceCallback, trainer: Trainer, folder: Path) -> None:
        self._config, self._trainer, self._folder = config, trainer, folder
        rank = trainer.global_rank
        self._suffix = f"_rank{rank}" if rank else ""
        self._record = RecordWriter(folder / f"steps{self._suffix}.jsonl", rank)
        self._settings = run_settings(trainer)
        self._budget = float(self._settings["cpu_budget"])
        self._steps = dict.fromkeys(("train", *_EVALUATION), 0)
        self._window: ProfileWindow | None = None
        self._traced_at: dict[str, int] = {}
        self._every, self._warmup, self._active = config.every_n_steps, config.warmup, config.active
        self._owed = False
        self._epoch_began: float | None = None
        self._was_profiled = False
        self._open: dict[str, float] = {}
        self._profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        self._taps = _tap(self._profiler, self._enter, self._leave)
        ranks = [child.pid for child in getattr(trainer.strategy.launcher, "procs", None) or []]
        self._sampler = CpuSampler(self._sample, config.sample_interval, ranks)
        self._sampler.start()

    def _sample(self, use: CpuUse) -> None:
        start, cpus = self._record.clock() - use.seconds, self._settings["cpu_count"]
        self._record.write("cpu", start=start, **use._asdict(), budget=self._budget, cpus=cpus)
        self._record.flush()

    # What Lightning's loops announce

    def _enter(self, action: str, event: str, phase: str) -> None:
        if self._trainer.sanity_checking:
            return
        if event == "wait" and phase == "train":
            if self._epoch_began is not None:
                self._write("epoch", "train", self._epoch_began, self._record.clock(), False)
                self._epoch_began = None
            self._open_if_due()
        if self._window is not None:
            self._window.enter(action, wait_label(phase) if event == "wait" else f"model_{phase}_step")
        self._open[action] = self._record.clock()

    def _leave(self, action: str, event: str, phase: str) -> None:
        end, began = self._record.clock(), self._open.pop(action, None)
        if began is None:
            return
        self._write(event, phase, began, end, self._window is not None or self._was_profiled)
        if event == "wait":  # what the closing of a window cost ends with the first fetch after it
            self._was_profiled = False
        if self._window is not None:
            self._window.leave(action)
            if event == "wait":
                self._window.leave(_STARTING)

    def _write(self, event: str, phase: str, start: float, end: float, profiled: bool) -> None:
        self._record.span(event, phase, self._steps[phase] + 1, start, end, profiled)

    # Windows of the profiler

    def begin_training(self) -> None:
        self._steps["train"] = self._trainer.fit_loop.total_batch_idx + 1  # a resumed run counts on
        every = self._config.every_n_steps
        self._every = min(every, _planned_steps(self._trainer) or every)
        self._warmup, self._active = self._fitted(min(self._every, _steps_in_a_row(self._trainer)))
        self._write_settings()

    def _fitted(self, steps: int) -> tuple[int, int]:
        """Steps of warm-up and of recording where no more than ``steps`` follow each other."""
        warmup = min(self._config.warmup, max(0, steps - ENOUGH))
        return warmup, min(self._config.active, max(1, steps - warmup))

    def _write_settings(self) -> None:
        self._settings["loaders"] = loader_settings(self._trainer)
        self._settings["trace"] = {
            "every_n_steps": self._every,
            "active": self._active,
            "warmup": self._warmup,
        }
        write_json(self._folder / f"settings{self._suffix}.json", self._settings)

    def begin_epoch(self) -> None:
        """From here to the end of the first fetch is one wait: the workers start, then bring a batch."""
        if self._window is not None:
            self._window.enter(_STARTING, wait_label("train"))
        self._epoch_began = self._record.clock()

    def begin_evaluation(self, phase: str) -> None:
        self.close_window()
        self._write_settings()
        last, now = self._traced_at.get(phase), self._steps["train"]
        if self._config.trace_evaluation and (last is None or now - last >= self._every):
            self._traced_at[phase] = now
            self._open_window(phase, *self._fitted(_evaluation_steps(self._trainer, phase)))

    def end_step(self, phase: str) -> None:
        self._steps[phase] += 1
        window = self._window
        if window is not None and window.phase == phase and window.step():
            self.close_window()

    def _open_if_due(self) -> None:
        done, length = self._steps["train"], self._warmup + self._active
        if self._window is None and (self._owed or done % self._every == self._every - length):
            self._open_window("train", self._warmup, self._active)

    def _open_window(self, phase: str, warmup: int, active: int) -> None:
        if autograd_profiler._is_profiler_enabled:
            warnings.warn("Another profiler is running, so StepTraceCallback writes no traces.", stacklevel=2)
            return
        self._window = ProfileWindow(phase, self._trace_path, warmup, active, self._config.profiler_kwargs)

    def _trace_path(self, phase: str) -> Path:
        ending = ("" if phase == "train" else f"_{phase}") + self._suffix
        zipped = ".gz" if self._config.compress else ""
        return self._folder / f"trace_{self._steps['train']}{ending}.json{zipped}"

    def close_window(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.close()
            self._was_profiled = True
            if window.phase == "train":  # one that a validation cut short is made up for after it
                self._owed = not window.saved

    def close(self) -> None:
        _untap(self._profiler, self._taps)
        self.close_window()
        self._sampler.stop()
        self._record.flush()


def _planned_steps(trainer: Trainer) -> int | None:
    """How many batches the fit will train on at most; None where nothing limits it."""
    steps = trainer.estimated_stepping_batches
    if steps == float("inf") or steps < 1:
        return None
    batches = int(steps) * trainer.accumulate_grad_batches
    per_epoch = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and per_epoch != float("inf"):
        batches = min(batches, int(per_epoch) * trainer.max_epochs)
    return max(1, batches)


def _evaluation_steps(trainer: Trainer, phase: str) -> int:
    """How many batches an evaluation has, all its loaders together."""
    batches = {
        "val": trainer.num_val_batches,
        "test": trainer.num_test_batches,
        "predict": trainer.num_predict_batches,
    }[phase]
    return int(min(sum(batches), sys.maxsize))


def _steps_in_a_row(trainer: Trainer) -> int:
    """How many training steps follow each other before an epoch ends or a validation comes between."""
    between = [trainer.num_training_batches, trainer.val_check_batch if trainer.enable_validation else None]
    return int(min((steps for steps in between if steps and steps != float("inf")), default=sys.maxsize))


@lru_cache(maxsize=1024)
def _kind(action: str) -> tuple[str, str] | None:
    """("wait" or "step", phase) of what Lightning's loops announce; None for all else, which is most of it."""
    if action == "run_training_batch":
        return "step", "train"
    for ending, phase in _FETCHES.items():
        if action.endswith(ending):
            return "wait", phase
    if action.startswith("[Strategy]"):
        for ending, phase in _STEPS.items():
            if action.endswith(ending):
                return "step", phase
    return None


Hook = Callable[[str, str, str], None]


def _tap(profiler: Any, enter: Hook, leave: Hook) -> dict[str, Any]:
    """Has every fetch and step that the loops announce to ``profiler`` told to ``enter`` and ``leave`` as well."""
    before = {name: profiler.__dict__.get(name) for name in ("start", "stop")}
    start, stop = profiler.start, profiler.stop

    def tapped_start(action_name: str) -> None:
        start(action_name)
        if kind := _kind(action_name):
            enter(action_name, *kind)

    def tapped_stop(action_name: str) -> None:
        if kind := _kind(action_name):
            leave(action_name, *kind)
        stop(action_name)

    profiler.start, profiler.stop = tapped_start, tapped_stop
    return before


def _untap(profiler: Any, before: dict[str, Any]) -> None:
    for name, value in before.items():
        if value is None:
            profiler.__dict__.pop(name, None)
        else:
            setattr(profiler, name, value)
