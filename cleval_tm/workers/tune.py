"""Measure how many DataLoader workers pay, in short fits of one's own Lightning model."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cleval_tm.workers.budget import cpu_budget
from cleval_tm.workers.fits import FitTrials, package_of
from cleval_tm.workers.guard import StepError, quiet
from cleval_tm.workers.progress import shown_progress
from cleval_tm.workers.result import WorkerSweep
from cleval_tm.workers.search import Search
from cleval_tm.workers.state import left_as_it_was
from cleval_tm.workers.sweep import check_arguments, notes_of, try_variants

_VERBS = {
    "train_dataloader": "fit",
    "val_dataloader": "validate",
    "test_dataloader": "test",
    "predict_dataloader": "predict",
}


def tune_workers(
    trainer: Any,
    model: Any,
    datamodule: Any = None,
    *,
    dataloaders: Any = None,
    loader: str = "train_dataloader",
    candidates: Sequence[int] | None = None,
    repeats: int = 3,
    max_repeats: int = 15,
    seconds: float = 2.0,
    max_steps: int | None = None,
    timeout: float = 60.0,
    variants: bool = True,
    update_attr: bool = False,
    attr_name: str = "num_workers",
    local_ranks: int | None = None,
    progress: bool = True,
) -> WorkerSweep:
    """Measures which ``num_workers`` makes a Lightning Trainer fastest, and picks the fewest that do.

    Like :func:`~cleval_tm.workers.sweep_workers`, but each trial is a short ``trainer.fit`` (with
    ``max_steps``) of the real model: its precision, accelerator, gradient accumulation, hooks and optimizers.
    The fits run in a copy of the Trainer without its callbacks, loggers and profiler, so they write no
    checkpoint and no log. Afterwards the Trainer, the weights, all other state of the model, the datamodule,
    random number generators, thread counts and the environment are as they were.

    Args:
        trainer: The Trainer, with one device.
        model: The LightningModule.
        datamodule: The LightningDataModule; None if the model has the loaders, or ``dataloaders`` are given.
        dataloaders: Loaders instead of a datamodule, as ``trainer.fit`` takes them.
        loader: Which to tune: ``"train_dataloader"`` by fitting (without validation), ``"val_dataloader"``,
            ``"test_dataloader"`` or ``"predict_dataloader"`` by the Trainer's method of that kind.
        candidates: Measure these (with 0 and the current value) instead of climbing as long as it helps.
        repeats: Rounds for every candidate; 3 or more.
        max_repeats: Rounds at most for candidates that are still too noisy to tell apart.
        seconds: How long a fit runs at least, where ``max_steps`` is None.
        max_steps: Batches in each fit; with many workers more, so that their first batches do not decide.
        timeout: Seconds without a batch after which a candidate counts as hung.
        variants: Whether to try ``prefetch_factor`` and ``persistent_workers`` on the best value.
        update_attr: Whether to set the suggestion in the datamodule (or model) afterwards.
        attr_name: The attribute, or key in ``hparams``, that ``update_attr`` sets.
        local_ranks: Training processes that will share this machine; None asks the launcher's environment.
        progress: Whether to show a progress bar, with an estimate of the time left, on standard error.

    Returns:
        The measurements, with :meth:`~cleval_tm.workers.WorkerSweep.suggestion` and
        :meth:`~cleval_tm.workers.WorkerSweep.explain`.

    Raises:
        ValueError: If an argument is out of range, ``loader`` is unknown, there is nothing that
            ``update_attr`` could set, the Trainer has several devices, or both a datamodule and loaders are
            given.
        RuntimeError: If ``update_attr`` is set and no candidate could be measured.
        Exception: Whatever the model raises.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
        >>> from cleval_tm.workers import tune_workers
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        >>> quick = {"seconds": 0.2, "variants": False, "progress": False}
        >>> sweep = tune_workers(trainer, BoringModel(), BoringDataModule(), candidates=[1], **quick)
        >>> [row.num_workers for row in sweep.results]
        [0, 1]
        >>> trainer.global_step
        0
    """
    check_arguments(candidates, None, repeats, seconds, timeout, max_steps)
    owner, module = _owner(trainer, model, datamodule, dataloaders, loader)
    if update_attr:
        _settable(owner, attr_name)
    budget = cpu_budget(local_ranks)
    with quiet(), left_as_it_was(model, owner), _attached_as_before(model, owner):
        trials = FitTrials(
            trainer,
            model,
            owner,
            loader,
            module,
            _VERBS[loader],
            cpus=budget.cpus,
            seconds=seconds,
            max_steps=max_steps,
            timeout=timeout,
        )
        try:
            trials.warm_up()
            with shown_progress(progress, loader) as show:
                search = Search(
                    trials,
                    fits=lambda setting: trials.memory.fits(setting, budget.local_ranks),
                    current=trials.current,
                    candidates=candidates,
                    repeats=repeats,
                    max_repeats=max_repeats,
                    progress=show,
                )
                search.run()
                if variants:
                    try_variants(search, trials.length is not None)
        except StepError as error:
            raise (error.__cause__ or error) from None
    sweep = WorkerSweep(
        results=search.results(),
        variants=search.variants(),
        current=trials.current,
        cpus=budget.cpus,
        loader=loader,
        notes=tuple(notes_of(trials, budget.cpus)),
    )
    if update_attr:
        _set(owner, attr_name, sweep.suggestion())
    return sweep


def _owner(trainer: Any, model: Any, datamodule: Any, dataloaders: Any, loader: str) -> tuple[Any, Any]:
    """The object whose method makes the loaders, and the datamodule to hand to the Trainer."""
    if loader not in _VERBS:
        raise ValueError(f"Expected argument `loader` to be one of {list(_VERBS)} but got {loader!r}")
    if trainer.world_size > 1:
        raise ValueError(
            f"Expected argument `trainer` to have one device but got {trainer.world_size}: each rank would choose for "
            f"itself. Tune with a Trainer of devices=1, and tune_workers(..., local_ranks={trainer.num_devices})"
        )
    if datamodule is not None and dataloaders is not None:
        raise ValueError("Expected either argument `datamodule` or argument `dataloaders` but got both")
    if dataloaders is not None:
        kind = importlib.import_module(package_of(trainer)).LightningDataModule
        given = type("GivenLoaders", (kind,), {loader: lambda self: dataloaders})()
        return given, given
    return (model, None) if datamodule is None else (datamodule, datamodule)


def _settable(owner: Any, name: str) -> None:
    if not hasattr(owner, name) and name not in getattr(owner, "hparams", {}):
        raise ValueError(
            f"Expected {type(owner).__name__} to have an attribute or hyperparameter {name!r} that `update_attr` can "
            "set but it has none; name it by `attr_name`"
        )


def _set(owner: Any, name: str, value: int) -> None:
    if name in getattr(owner, "hparams", {}):
        owner.hparams[name] = value
    if hasattr(owner, name):
        setattr(owner, name, value)


@contextmanager
def _attached_as_before(model: Any, owner: Any) -> Iterator[None]:
    """Give back the model's and the datamodule's attributes: their Trainer, what ``setup`` made, log and hooks."""
    parts = [*model.modules(), *([] if owner is model else [owner])]
    before = [(part, copy.copy(vars(part))) for part in parts]
    try:
        yield
    finally:
        for part, attributes in before:
            for name in vars(part).keys() - attributes.keys():
                del vars(part)[name]
            vars(part).update(attributes)
