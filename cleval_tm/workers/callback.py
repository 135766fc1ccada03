"""A Lightning callback that shows where a run waits for data: profiler traces, wall times, CPU use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleval_tm.workers.run_recorder import RunRecorder

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ModuleNotFoundError:  # the same library under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["StepTraceCallback"]


class StepTraceCallback(Callback):
    """Records, while a model trains, how long each step waits for its batch, and how busy the CPU is.

    Two kinds of evidence, in one folder:

    * ``steps.jsonl``: the wall time of *every* wait and step and samples of the CPU use of the process tree
      (main process and DataLoader workers), with next to no overhead,
    * ``trace_{step}.json``: a ``torch.profiler`` trace of the last ``active`` of every ``every_n_steps``
      training steps (and ``trace_{step}_val.json`` of a validation after it), with the labels
      ``wait_for_train_batch`` and ``model_train_step`` (``..._val_...`` and so on). Profiling slows small
      steps down, so what was profiled is marked in ``steps.jsonl`` and does not count there.

    ``settings.json`` beside them says how the run was set up: workers, batch size, device, versions. Under
    DDP each rank writes its own files (``trace_100_rank1.json``). A run shorter than ``every_n_steps`` is
    traced at its end.

    Args:
        dirpath: The folder. None: ``step_trace`` in Hydra's output folder where the run is a Hydra job, else
            in the trainer's ``log_dir``, else in its ``default_root_dir``.
        every_n_steps: A trace each so many training steps (batches).
        active: How many steps a trace holds.
        warmup: How many steps the profiler runs before them without recording.
        compress: Write ``.json.gz``.
        trace_evaluation: Trace validation, test and predict steps too: the first time each runs, and again
            after ``every_n_steps`` training steps at the earliest.
        sample_interval: Seconds between samples of CPU use.
        profiler_kwargs: Further keyword arguments for ``torch.profiler.profile`` (``with_stack``,
            ``record_shapes``).

    Raises:
        ValueError: A number is out of range, or a window does not fit between two traces.
        ModuleNotFoundError: Lightning or psutil is not installed (extras ``lightning`` and ``workers``).

    Example:
        >>> from cleval_tm.workers import StepTraceCallback
        >>> callback = StepTraceCallback("step_trace", every_n_steps=100, active=5)
        >>> # Trainer(callbacks=[callback]).fit(...), then:
        >>> # cleval-tm workers analyze step_trace/trace_100.json
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        *,
        every_n_steps: int = 100,
        active: int = 5,
        warmup: int = 2,
        compress: bool = False,
        trace_evaluation: bool = True,
        sample_interval: float = 1.0,
        profiler_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("every_n_steps", every_n_steps, 1),
            ("active", active, 1),
            ("warmup", warmup, 0),
        ):
            if value < least:
                raise ValueError(f"Expected argument `{name}` to be {least} or more but got {value}")
        if active + warmup > every_n_steps:
            raise ValueError(
                f"Expected argument `every_n_steps` to be at least `warmup` + `active` = {warmup + active} "
                f"but got {every_n_steps}"
            )
        if sample_interval <= 0:
            raise ValueError(f"Expected argument `sample_interval` to be above 0 but got {sample_interval}")
        self.dirpath = Path(dirpath) if dirpath is not None else None
        self.every_n_steps, self.active, self.warmup = every_n_steps, active, warmup
        self.compress, self.trace_evaluation = compress, trace_evaluation
        self.sample_interval = sample_interval
        self.profiler_kwargs = dict(profiler_kwargs or {})
        self._run: RunRecorder | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins a record."""
        self._close()
        self._run = RunRecorder(self, trainer, self._folder(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends the record; what was recorded is on disk."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the record; what was recorded until then is on disk."""
        self._close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the settings, fits the schedule to the length of the run."""
        if self._run is not None:
            self._run.begin_training()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes when the epoch began: until its first fetch, its workers start."""
        if self._run is not None:
            self._run.begin_epoch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Steps the profiler: a trace holds whole steps, each from before its fetch."""
        if self._run is not None:
            self._run.end_step("train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a trace of the validation, if one is due."""
        if self._run is not None and not trainer.sanity_checking:
            self._run.begin_evaluation("val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a trace of the test."""
        if self._run is not None:
            self._run.begin_evaluation("test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a trace of the prediction."""
        if self._run is not None:
            self._run.begin_evaluation("predict")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Steps the profiler."""
        if self._run is not None and not trainer.sanity_checking:
            self._run.end_step("val")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Steps the profiler."""
        if self._run is not None:
            self._run.end_step("test")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Steps the profiler."""
        if self._run is not None:
            self._run.end_step("predict")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the trace of a validation shorter than its window."""
        self._end_evaluation()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the trace of a test shorter than its window."""
        self._end_evaluation()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the trace of a prediction shorter than its window."""
        self._end_evaluation()

    def _end_evaluation(self) -> None:
        if self._run is not None:
            self._run.close_window()

    def _close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def _folder(self, trainer: Trainer) -> Path:
        if self.dirpath is not None:
            folder = self.dirpath
        else:
            folder = (_hydra_output() or Path(trainer.log_dir or trainer.default_root_dir)) / "step_trace"
        return Path(trainer.strategy.broadcast(folder))  # a logger's folder is known to rank 0 alone


def _hydra_output() -> Path | None:
    """The output folder of the Hydra job that this process runs, if any; imports no Hydra."""
    if "hydra.core.hydra_config" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
