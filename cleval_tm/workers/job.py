"""One training run as a measurement: seconds per step in blocks, waiting, CPU use."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cleval_tm.workers.record import CpuSample, StepRecord, Timed, read_records
from cleval_tm.workers.trace import TraceAnalysis, analyze_trace

_BLOCKS = 8
_LEAST = 4
_OF_EVALUATION = re.compile(r"_(val|test|predict)\.json")


@dataclass(frozen=True)
class Job:
    """What one run tells about its number of workers; times in seconds.

    Args:
        folder: Its output folder.
        phase: The phase whose loader was swept.
        blocks: Seconds per step of consecutive blocks of the run, epoch boundaries shared out evenly over
            them.
        steady: Mean seconds per step within epochs.
        steps: Number of steps measured.
        wait_share: Time spent waiting over the time of all steps, 0 to 1; the start of the workers at each epoch
            is part of it, unless there are traces of another profiler only.
        cpu_use: Cores kept busy over the budget; None without samples.
        budget: Cores that the run may use; None without samples.
        others: Cores that other processes kept busy meanwhile; None without samples.
        cpus: Cores of the machine; None without samples.
        startup: Mean time from the start of an epoch, after the first, to its first batch; None if there was
            none.
        num_workers: Of the loaders of the phase, as they really were; empty if unknown.
        loader: Settings of the first of them.
        traces: The traces beside the record.
        profiled: Whether the times are from profiled steps, for want of a record.
        failure: Why the run cannot be used; None if it can.
    """

    folder: Path
    phase: str
    blocks: tuple[float, ...] = ()
    steady: float | None = None
    steps: int = 0
    wait_share: float | None = None
    cpu_use: float | None = None
    budget: float | None = None
    others: float | None = None
    cpus: int | None = None
    startup: float | None = None
    num_workers: tuple[int, ...] = ()
    loader: dict[str, Any] = field(default_factory=dict)
    traces: tuple[TraceAnalysis, ...] = ()
    profiled: bool = False
    failure: str | None = None

    def notes(self, workers: int) -> list[str]:
        """What the row of a sweep has no place for, in words."""
        notes = []
        if self.profiled:
            notes.append(
                f"{workers} workers: no steps.jsonl, so the times are those of profiled (slower) steps"
            )
        if self.traces:
            phases = [trace.phases.get(self.phase) or trace.phases["loop"] for trace in self.traces]
            shares = ", ".join(f"{phase.wait_share:.0%}" for phase in phases)
            streams = [trace.streams[0] for trace in self.traces if trace.streams]
            idle = ", ".join(f"{1 - stream.busy_share:.0%}" for stream in streams)
            count = f"{len(phases)} trace{'s' * (len(phases) > 1)}"
            notes.append(f"{workers} workers: waiting is {shares} in {count}{idle and f', GPU idle {idle}'}")
        return notes


def read_job(folder: Path, phase: str = "train") -> Job:
    """Reads what StepTraceCallback, or a profiler alone, left in a job's folder or below it.

    Args:
        folder: The job's output folder.
        phase: The phase whose loader was swept.
    """
    settings = _settings(folder)
    loaders = settings.get("loaders", {}).get(phase, [])
    known: dict[str, Any] = {
        "num_workers": tuple(loader["num_workers"] for loader in loaders if "num_workers" in loader),
        "loader": loaders[0] if loaders else {},
        "traces": _traces(folder, phase),
    }
    records = sorted(folder.rglob("steps.jsonl"))
    if not records:
        return _from_traces(folder, phase, known)
    runs = [run for path in records for run in read_records(path) if any(w.phase == phase for w in run.waits)]
    if not runs:
        return Job(folder, phase, **known, failure=f"`{folder}` records no {phase} step: did the run fail?")
    return _from_record(folder, runs[-1], phase, known)


def _settings(folder: Path) -> dict[str, Any]:
    for path in sorted(folder.rglob("settings.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and "loaders" in found:
            return found
    return {}


def _traces(folder: Path, phase: str) -> tuple[TraceAnalysis, ...]:
    found = []
    for path in sorted({*folder.rglob("trace_*.json*"), *folder.rglob("*.pt.trace.json*")}):
        if "_rank" in path.name or (phase == "train" and _OF_EVALUATION.search(path.name)):
            continue
        try:
            analysis = analyze_trace(path)
        except ValueError:  # a trace without fetches says nothing here; `analyze` on the file says why
            continue
        if phase in analysis.phases or "loop" in analysis.phases:
            found.append(analysis)
    return tuple(found)


def _from_traces(folder: Path, phase: str, known: dict[str, Any]) -> Job:
    traces: tuple[TraceAnalysis, ...] = known["traces"]
    found = [trace.phases.get(phase) or trace.phases["loop"] for trace in traces]
    if not found:
        return Job(
            folder, phase, **known, failure=f"`{folder}` holds neither a steps.jsonl nor a trace with fetches"
        )
    steps = sum(waits.steps for waits in found)
    return Job(
        folder,
        phase,
        blocks=tuple(waits.step_median for waits in found),
        steps=steps,
        wait_share=sum(waits.wait_share * waits.steps for waits in found) / steps,
        profiled=True,
        **known,
    )


@dataclass(frozen=True)
class _Period:
    """A step from the end of one fetch to the end of the next, other phases in between left out."""

    seconds: float
    waited: float
    boundary: bool


def _periods(record: StepRecord, phase: str) -> list[_Period]:
    """The unprofiled steps of a phase, in order."""
    waits = [wait for wait in record.waits if wait.phase == phase]
    others = sorted(
        (timed for timed in (*record.waits, *record.steps) if timed.phase != phase), key=lambda t: t.start
    )
    slowed = {step.step for step in record.steps if step.phase == phase and step.profiled}
    epochs = [epoch for epoch in record.epochs if epoch.phase == phase]
    found = []
    for before, after in pairwise(waits):
        if before.step in slowed or after.profiled:
            continue
        foreign = _within(others, before, after)
        gone = foreign[-1].end - foreign[0].start if foreign else 0.0
        begun = _within(epochs, before, after)
        starting = sum(epoch.end - epoch.start for epoch in begun)
        waited = after.end - after.start + starting
        found.append(_Period(after.end - before.end - gone, waited, bool(foreign or begun)))
    return found


def _within(timed: list[Timed], before: Timed, after: Timed) -> list[Timed]:
    """Those of ``timed``, which is ordered and does not overlap, that lie between two fetches."""
    first = bisect_left(timed, before.end, key=lambda one: one.start)
    last = bisect_right(timed, after.start, key=lambda one: one.start)
    return timed[first:last]


def _from_record(folder: Path, record: StepRecord, phase: str, known: dict[str, Any]) -> Job:
    periods = _periods(record, phase)
    periods = periods[max(2, len(periods) // 20) :]  # the first steps allocate, compile and fill caches
    steady = [period.seconds for period in periods if not period.boundary]
    if len(steady) < 2 * _LEAST:
        return Job(
            folder,
            phase,
            **known,
            failure=f"`{folder}` has {len(steady)} unprofiled {phase} steps; {2 * _LEAST} are needed",
        )
    total = sum(period.seconds for period in periods)
    boundaries = total / len(periods) - sum(steady) / len(steady)
    samples = _samples(record, phase)
    sampled = sum(sample.seconds for sample in samples)
    busy = sum(sample.cores / sample.budget * sample.seconds for sample in samples)
    return Job(
        folder,
        phase,
        blocks=tuple(max(seconds + boundaries, 1e-9) for seconds in _blocks(steady)),
        steady=sum(steady) / len(steady),
        steps=len(periods),
        wait_share=sum(period.waited for period in periods) / total,
        cpu_use=busy / sampled if sampled else None,
        budget=record.budget,
        others=sum(sample.others * sample.seconds for sample in samples) / sampled if sampled else None,
        cpus=samples[-1].cpus if samples else None,
        startup=_startup(record, phase),
        **known,
    )


def _blocks(steady: list[float]) -> list[float]:
    """Means of consecutive blocks of about equal length, no block shorter than a few steps."""
    count = min(_BLOCKS, len(steady) // _LEAST)
    edges = [round(i * len(steady) / count) for i in range(count + 1)]
    return [sum(steady[low:high]) / (high - low) for low, high in pairwise(edges)]


def _samples(record: StepRecord, phase: str) -> list[CpuSample]:
    """Those taken, for the greater part, while the phase ran."""
    spans = [timed for timed in (*record.waits, *record.steps) if timed.phase == phase]
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    return [sample for sample in record.cpu if first <= sample.start + 0.5 * sample.seconds <= last]


def _startup(record: StepRecord, phase: str) -> float | None:
    first = {wait.step: wait for wait in record.waits if wait.phase == phase}
    begun = [
        first[epoch.step].end - epoch.start
        for epoch in record.epochs[1:]
        if epoch.phase == phase and epoch.step in first
    ]
    return sum(begun) / len(begun) if begun else None
