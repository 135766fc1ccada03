"""Measure how many DataLoader workers pay, in a loop of one's own step over one's own loader."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cleval_tm.workers.budget import cpu_budget
from cleval_tm.workers.guard import StepError, quiet
from cleval_tm.workers.loaders import Source, is_iterable, length, source_of
from cleval_tm.workers.progress import shown_progress
from cleval_tm.workers.result import WorkerSweep
from cleval_tm.workers.search import Search, Setting
from cleval_tm.workers.state import left_as_it_was
from cleval_tm.workers.trial import LoaderTrials

if TYPE_CHECKING:
    from cleval_tm.workers.fits import FitTrials

_PREFETCH = 2


def sweep_workers(
    source: Any,
    step: Callable[[Any], object] | float | None = None,
    *,
    candidates: Sequence[int] | None = None,
    current: int | None = None,
    loader: str | None = None,
    repeats: int = 3,
    max_repeats: int = 15,
    seconds: float = 1.5,
    timeout: float = 60.0,
    steps_per_epoch: int | None = None,
    variants: bool = True,
    restore: Sequence[Any] = (),
    local_ranks: int | None = None,
    progress: bool = True,
) -> WorkerSweep:
    """Measures which ``num_workers`` makes a training loop fastest, and picks the fewest that do.

    Each candidate runs the loop ``for batch in loader: step(batch)`` for a second or two, at least three
    times, in turn with the others, so that a neighbour that comes and goes slows all alike. What counts is
    wall time per step of a whole epoch, with the start of the workers. Always measured are 0 and the current
    value. Without ``candidates`` the sweep climbs (1, 2, 3, 4, 6, 8, 12, ...) as long as that helps, past the
    number of CPUs too, and ends after two values that don't help. On the best value it then tries
    ``prefetch_factor`` and ``persistent_workers``.

    Batch size, sampler, collate function, ``worker_init_fn``, ``drop_last`` and all else stay as the loader
    has them. Weights, optimizers, gradients, random number generators, thread counts and the environment are
    afterwards as they were. A candidate whose workers die, hang or raise is recorded as failed, one that
    would not fit into memory or shared memory as skipped.

    Args:
        source: A ``DataLoader``; a dict or list of them (a step then gets a dict or list of batches); a
            function that makes any of these, with or without an argument ``num_workers``; or a datamodule.
        step: Called with each batch, in the main process: the training step, transfer to the device included.
            A number stands for a step that keeps an accelerator, not the CPU, busy for so many seconds. None
            only fetches, which compares the loading alone.
        candidates: Measure these (with 0 and the current value) instead of climbing.
        current: The value in use now, where it is not the loader's own.
        loader: A datamodule's method, by default ``"train_dataloader"``. Several validation, test or predict
            loaders are run one after the other, several training loaders side by side. With other sources a
            name for the result.
        repeats: Rounds for every candidate; 3 or more.
        max_repeats: Rounds at most for candidates that are still too noisy to tell apart.
        seconds: Length of one trial; short epochs are run to their end.
        timeout: Seconds without a batch after which a candidate counts as hung. (A hang without workers is
            only seen in the main thread, and not on Windows.)
        steps_per_epoch: Where training ends an epoch (``limit_train_batches``), if before the loader's end.
        variants: Whether to try ``prefetch_factor`` and ``persistent_workers``.
        restore: Modules, optimizers or other objects with ``state_dict`` that the step changes and that
            cannot be found from it through closures, bound methods, partials, attributes or globals that it
            names.
        local_ranks: Training processes that share this machine; None asks the launcher's environment.
        progress: Whether to show a progress bar, with an estimate of the time left, on standard error.

    Returns:
        The measurements, with :meth:`~cleval_tm.workers.WorkerSweep.suggestion` and
        :meth:`~cleval_tm.workers.WorkerSweep.explain`.

    Raises:
        TypeError: If ``source`` or ``step`` is none of the above.
        ValueError: If an argument is out of range, or there is no loader in ``source``.
        Exception: Whatever ``step`` raises.

    Example:
        >>> import time, torch
        >>> from torch.utils.data import DataLoader, Dataset
        >>> from cleval_tm.workers import sweep_workers
        >>> class Slow(Dataset):  # as if read from a network disk
        ...     def __len__(self):
        ...         return 24
        ...     def __getitem__(self, index):
        ...         time.sleep(0.01)
        ...         return torch.zeros(3)
        >>> loader = DataLoader(Slow(), batch_size=4)
        >>> quick = {"seconds": 0.2, "variants": False, "progress": False}
        >>> sweep = sweep_workers(loader, step=0.001, candidates=[2], **quick)
        >>> [row.num_workers for row in sweep.results]
        [0, 2]
        >>> [len(row.times) >= 3 for row in sweep.results]
        [True, True]
    """
    check_arguments(candidates, current, repeats, seconds, timeout, steps_per_epoch)
    call = _step_of(step)
    budget = cpu_budget(local_ranks)
    with quiet(), left_as_it_was(source, step, *restore):
        found = source_of(source, loader, current)
        base = found.make(found.current or 0)
        with left_as_it_was(base):
            trials = LoaderTrials(
                found,
                call,
                cpus=budget.cpus,
                seconds=seconds,
                timeout=timeout,
                steps_per_epoch=steps_per_epoch,
            )
            with shown_progress(progress, found.name or "sweep of num_workers") as show:
                search = Search(
                    trials,
                    fits=lambda setting: trials.memory.fits(setting, budget.local_ranks),
                    current=found.current,
                    candidates=candidates,
                    repeats=repeats,
                    max_repeats=max_repeats,
                    progress=show,
                )
                try:
                    trials.warm_up(Setting(0))
                    search.run()
                    if variants:
                        try_variants(search, length(base, found.in_turn) is not None)
                except StepError as error:
                    raise (error.__cause__ or error) from None
    return WorkerSweep(
        results=search.results(),
        variants=search.variants(),
        current=found.current,
        cpus=budget.cpus,
        loader=found.name,
        notes=(
            *notes_of(trials, budget.cpus),
            *_notes_on_loaders(found, base, trials, step is None, steps_per_epoch),
        ),
    )


def check_arguments(
    candidates: Sequence[int] | None,
    current: int | None,
    repeats: int,
    seconds: float,
    timeout: float,
    steps_per_epoch: int | None,
) -> None:
    for name, numbers in (
        ("candidates", candidates or ()),
        ("current", () if current is None else (current,)),
    ):
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(
                    f"Expected argument `{name}` to be whole numbers of 0 or more but got {number!r}"
                )
    if repeats < 3:
        raise ValueError(
            f"Expected argument `repeats` to be 3 or more but got {repeats}: fewer show no noise"
        )
    for name, value in (("seconds", seconds), ("timeout", timeout), ("steps_per_epoch", steps_per_epoch)):
        if value is not None and not value > 0:
            raise ValueError(f"Expected argument `{name}` to be positive but got {value}")


def _step_of(step: Callable[[Any], object] | float | None) -> Callable[[Any], object] | None:
    if step is None or callable(step):
        return step
    if isinstance(step, (int, float)) and step >= 0:
        pause = float(step)
        return lambda batch: time.sleep(pause)
    raise TypeError(f"Expected argument `step` to be a callable, seconds, or None but got {step!r}")


def try_variants(search: Search, epochs_known: bool) -> None:
    """Try other options on the best value; with short epochs persistent workers on another one too.

    Args:
        search: A search that has run.
        epochs_known: Whether epochs have a known length, so that starting workers less often can show.
    """
    choice = search.choice()
    if choice is None:
        return
    workers = choice.suggestion
    if workers == 0:
        workers = _best_once_started(search)
        if not workers or not epochs_known:
            return
    row = next(row for row in search.results() if row.num_workers == workers)
    tried = []
    if epochs_known:
        tried.append(Setting(workers, persistent_workers=not row.persistent_workers))
    if choice.suggestion:
        tried.append(Setting(workers, prefetch_factor=2 * (row.prefetch_factor or _PREFETCH)))
    search.try_variants(tried, sorted({choice.suggestion, workers}))
    if len(tried) == 2 and all(search.faster(setting, Setting(workers)) for setting in tried):
        both = Setting(workers, tried[1].prefetch_factor, tried[0].persistent_workers)
        search.try_variants([both], [workers])


def _best_once_started(search: Search) -> int:
    """The fewest workers that are clearly faster than none, if their start is left out; else 0."""
    without = search.steady(0)
    pace = {
        row.num_workers: search.steady(row.num_workers)
        for row in search.results()
        if row.ok and row.num_workers
    }
    known = {workers: value for workers, value in pace.items() if value is not None}
    if without is None or not known:
        return 0
    best = min(known.values())
    if best > 0.95 * without:
        return 0
    return min(workers for workers, value in known.items() if value <= 1.05 * best)


def notes_of(trials: LoaderTrials | FitTrials, cpus: float) -> list[str]:
    """Remarks on the machine that both kinds of sweep make."""
    contention = trials.contention.note(cpus)
    notes = [contention] if contention else []
    if cpus < (os.cpu_count() or 1):
        notes.append(f"The machine has {os.cpu_count()} CPUs, but this process may use {cpus:g}.")
    return notes


def _notes_on_loaders(
    found: Source, base: Any, trials: LoaderTrials, no_step: bool, steps_per_epoch: int | None
) -> list[str]:
    notes = []
    if no_step:
        notes.append("No step was given: loading alone was compared; training needs fewer workers than that.")
    if length(base, found.in_turn) is None and steps_per_epoch is None and not trials.epoch_lengths:
        notes.append("The loader does not know its length: the start of its workers is not in the figures.")
    repeated = _repeated_samples(base, trials)
    return [*notes, repeated] if repeated else notes


def _repeated_samples(base: Any, trials: LoaderTrials) -> str | None:
    """An iterable dataset that ignores its worker's number gives each sample once a worker."""
    without = trials.epoch_lengths.get(0)
    if without is None or not is_iterable(base):
        return None
    for workers, steps in sorted(trials.epoch_lengths.items()):
        if workers > 1 and steps >= 1.8 * without:
            return (
                f"The iterable dataset gives {without} batches an epoch with 0 workers but {steps} with "
                f"{workers}: each worker reads all samples. Share them out by get_worker_info()."
            )
    return None
