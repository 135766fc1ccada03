"""A sweep that was run by Hydra: one job a candidate, read back from what StepTraceCallback recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cleval_tm.workers.hydra_config import configured_value
from cleval_tm.workers.job import Job, read_job
from cleval_tm.workers.result import WorkerResult, WorkerSweep

__all__ = ["analyze_multirun"]

_KEY = "num_workers"
_NOTABLE = 0.25


def analyze_multirun(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    where: Mapping[str, str] | None = None,
    current: int | None = None,
) -> WorkerSweep:
    """Reads the jobs of a Hydra multirun over ``num_workers`` as one sweep.

    Each job must have trained with :class:`~cleval_tm.workers.StepTraceCallback`; its record gives the wall
    time of a step (epoch boundaries shared out over the steps, validation left out, profiled steps left out),
    the share of waiting and the CPU use. As every candidate was run once, the noise is estimated from blocks
    within each run: what differs from run to run is not in it, so the sweep is marked ``single_run``. Several
    jobs with the same number of workers (another seed) count as one longer run. Jobs that left traces only
    (Lightning's ``PyTorchProfiler``) are read too, with a note that their steps were slowed by the profiler.

    Args:
        path: The multirun's folder, such as ``multirun/2024-05-01/12-00-00``, holding a folder for each job.
        key: The override that was swept, such as ``dataloaders.train_dataloader.num_workers``; None finds it.
        where: Only jobs with these overrides, by key; needed where other settings were swept besides.
        current: The number of workers in use now; None asks the project's Hydra configuration, if it can be
            read.

    Returns:
        The sweep; ``.loader`` is the key without ``.num_workers``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder holds no jobs, or jobs that differ in more than the number of workers.

    Example:
        >>> from cleval_tm.workers import analyze_multirun
        >>> analyze_multirun("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: Expected `no/such/folder` to be the folder of a Hydra multirun but there is none
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected `{folder}` to be the folder of a Hydra multirun but there is none")
    settings = [_Setting.of(job) for job in _job_folders(folder)]
    settings = [one for one in settings if _matches(one, where or {})]
    if not settings:
        chosen = f" with {dict(where)}" if where else ""
        raise ValueError(f"Expected `{folder}` to hold jobs of a Hydra multirun{chosen} but found none")
    key = key or _swept_key(folder, settings)
    _check_alike(folder, settings, key)
    jobs: dict[int, list[Job]] = {}
    failures: dict[int, list[str]] = {}
    for setting in settings:
        job = read_job(setting.folder, _phase(key))
        workers = _workers(setting, key, job)
        if job.failure is None:
            jobs.setdefault(workers, []).append(job)
        else:
            failures.setdefault(workers, []).append(job.failure)
    rows = [_row(n, jobs.get(n, []), failures.get(n, [])) for n in {*jobs, *failures}]
    if current is None:
        current = configured_value(settings[0].folder, key, settings[0].others(key))
    budgets = [job.budget for group in jobs.values() for job in group if job.budget is not None]
    notes = [note for workers in sorted(jobs) for job in jobs[workers] for note in job.notes(workers)]
    notes += _contention([job for group in jobs.values() for job in group])
    return WorkerSweep(
        results=tuple(rows),
        current=current,
        single_run=True,
        cpus=min(budgets, default=None),
        loader=key.rpartition(".")[0] or None,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Setting:
    """A job's folder and the overrides it was started with."""

    folder: Path
    overrides: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> _Setting:
        path = folder / ".hydra" / "overrides.yaml"
        if not path.is_file():
            return cls(folder, {})
        try:
            lines = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or []
        except YAMLError as error:
            raise ValueError(
                f"Expected `{path}` to be a list of overrides but got an error: {error}"
            ) from None
        pairs = (str(line).partition("=") for line in lines)
        return cls(folder, {key.lstrip("+~"): value for key, _, value in pairs})

    def others(self, key: str) -> dict[str, str]:
        return {name: value for name, value in self.overrides.items() if name != key}


def _job_folders(folder: Path) -> list[Path]:
    """Every folder under ``folder`` (itself included) that is a job of Hydra's, or else holds a record."""
    jobs = [hydra.parent for hydra in folder.rglob(".hydra") if hydra.is_dir()]
    if not jobs:
        jobs = [record.parent for record in folder.rglob("steps.jsonl")]
    return sorted(jobs, key=lambda job: (len(job.name), job.name, str(job)))


def _matches(setting: _Setting, where: Mapping[str, str]) -> bool:
    return all(setting.overrides.get(key) == str(value) for key, value in where.items())


def _swept_key(folder: Path, settings: Sequence[_Setting]) -> str:
    keys = {key for one in settings for key in one.overrides if key.rpartition(".")[2] == _KEY}
    swept = {key for key in keys if len({one.overrides.get(key) for one in settings}) > 1}
    found = swept or keys
    if len(found) > 1:
        raise ValueError(
            f"Expected the jobs in `{folder}` to differ in one `num_workers` but they differ in "
            f"{', '.join(sorted(found))}: pass `key`"
        )
    return found.pop() if found else _KEY


def _check_alike(folder: Path, settings: Sequence[_Setting], key: str) -> None:
    names = sorted(
        {name for one in settings for name in one.others(key) if name.rpartition(".")[2] != "seed"}
    )
    for name in names:
        values = sorted({one.overrides.get(name, "(default)") for one in settings})
        if len(values) > 1:
            raise ValueError(
                f"Expected the jobs in `{folder}` to differ in `{key}` alone but `{name}` is "
                f"{', '.join(values)}: "
                f'pick one with where={{"{name}": "{values[0]}"}} (`--where {name}={values[0]}`)'
            )


def _phase(key: str) -> str:
    section = key.rpartition(".")[0]
    return next((phase for phase in ("val", "test", "predict") if phase in section), "train")


def _workers(setting: _Setting, key: str, job: Job) -> int:
    """The job's number of workers: what its loaders had, which the override must not contradict."""
    override = setting.overrides.get(key)
    if override is None and not job.num_workers:
        raise ValueError(
            f"Expected the job in `{setting.folder}` to say how many workers it had, but it has neither an "
            f"override of `{key}` nor a settings.json of StepTraceCallback"
        )
    if override is None:
        return job.num_workers[0]
    try:
        asked = int(override)
    except ValueError:
        raise ValueError(
            f"Expected `{key}` of `{setting.folder}` to be an int but got {override!r}"
        ) from None
    if job.num_workers and asked not in job.num_workers:
        raise ValueError(
            f"Expected the job in `{setting.folder}` to run with {key}={asked} but its loader had "
            f"{job.num_workers[0]} workers: does the project use that key?"
        )
    return asked


def _contention(jobs: Sequence[Job]) -> list[str]:
    """A warning if others left one of the jobs less than its budget."""
    others = [job.others for job in jobs if job.others is not None]
    squeezed = any(
        job.others > _NOTABLE and job.cpus - job.others < job.budget
        for job in jobs
        if job.others is not None and job.cpus is not None and job.budget is not None
    )
    if not squeezed:
        return []
    return [
        f"Contention: other processes kept {min(others):.1f} to {max(others):.1f} of {jobs[0].cpus} CPUs busy while "
        f"the jobs ran; the figures hold for a machine as busy as that."
    ]


def _row(workers: int, jobs: Sequence[Job], failures: Sequence[str]) -> WorkerResult:
    def mean(values: list[Any]) -> Any:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    loader = next((job.loader for job in jobs if job.loader), {})
    return WorkerResult(
        workers,
        times=tuple(seconds for job in jobs for seconds in job.blocks),
        wait_share=mean([job.wait_share for job in jobs]),
        cpu_use=mean([job.cpu_use for job in jobs]),
        steady=mean([job.steady for job in jobs]),
        startup_s=mean([job.startup for job in jobs]),
        steps=sum(job.steps for job in jobs),
        prefetch_factor=loader.get("prefetch_factor"),
        persistent_workers=loader.get("persistent_workers"),
        failures=tuple(failures) if not jobs else (),
    )
