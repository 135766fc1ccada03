"""The record of a run: wall times of waits and steps and samples of CPU use, as JSON lines.

A line is one event, times in seconds since the record's first line:

* ``{"event": "run", "version": 1, "started": "2024-05-01T12:00:00+00:00", "rank": 0}`` opens a record,
* ``{"event": "wait", "phase": "train", "step": 7, "start": 1.25, "seconds": 0.004}`` is one fetch of a batch,
* ``{"event": "step", ...}`` likewise is the step that works on it,
* ``{"event": "epoch", "phase": "train", "step": 7, "start": ..., "seconds": ...}`` is what lies between the
  start of an epoch and its first fetch: the start of the workers,
* ``{"event": "cpu", "start": ..., "seconds": 1.0, "cores": 1.8, "budget": 2.0, "processes": 3,
  "others": 0.1, "cpus": 2}`` is a sample: cores that the run kept busy, and that all others did.

``"profiled": true`` marks what the profiler slowed down.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cleval_tm.workers.trace import Span

VERSION = 1
_KEPT = 256


class RecordWriter:
    """Appends events to a file of JSON lines; safe to share between threads.

    Args:
        path: The file; its folder is made, and an earlier record in it is kept.
        rank: Which process of the run writes.
    """

    def __init__(self, path: str | Path, rank: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._origin = time.perf_counter()
        self._lines: list[str] = []
        self._lock = threading.Lock()
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.write("run", version=VERSION, started=started, rank=rank)
        self.flush()

    def clock(self) -> float:
        """Seconds since the record began."""
        return time.perf_counter() - self._origin

    def write(self, event: str, **fields: Any) -> None:
        """Keeps one event; every few hundred go to the file together."""
        fields = {
            key: round(value, 7) if isinstance(value, float) else value for key, value in fields.items()
        }
        line = json.dumps({"event": event, **fields}) + "\n"
        with self._lock:
            self._lines.append(line)
            if len(self._lines) >= _KEPT:
                self._write_kept()

    def span(self, event: str, phase: str, step: int, start: float, end: float, profiled: bool) -> None:
        """Keeps one wait, step or start of an epoch; what :meth:`write` would, several times faster."""
        marked = ', "profiled": true' if profiled else ""
        line = (
            f'{{"event": "{event}", "phase": "{phase}", "step": {step}, "start": {start:.7f}, '
            f'"seconds": {end - start:.7f}{marked}}}\n'
        )
        with self._lock:
            self._lines.append(line)
            if len(self._lines) >= _KEPT:
                self._write_kept()

    def flush(self) -> None:
        """Writes to the file what is kept."""
        with self._lock:
            self._write_kept()

    def _write_kept(self) -> None:
        if self._lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
            self._lines.clear()


@dataclass(frozen=True)
class Timed:
    """One wait, step or start of an epoch, in seconds since the record began."""

    phase: str
    step: int
    start: float
    end: float
    profiled: bool = False


@dataclass(frozen=True)
class CpuSample:
    """CPU use over ``seconds``: cores that a process and its children kept busy, and may; cores that all others
    did, of how many."""

    start: float
    seconds: float
    cores: float
    budget: float
    processes: int
    others: float = 0.0
    cpus: int = 0


@dataclass
class StepRecord:
    """What one run recorded, in the order of time."""

    started: str
    rank: int = 0
    waits: list[Timed] = field(default_factory=list)
    steps: list[Timed] = field(default_factory=list)
    epochs: list[Timed] = field(default_factory=list)
    cpu: list[CpuSample] = field(default_factory=list)

    @property
    def cores(self) -> float | None:
        """Mean number of cores kept busy, weighted by time; None without samples."""
        seconds = sum(sample.seconds for sample in self.cpu)
        return sum(sample.cores * sample.seconds for sample in self.cpu) / seconds if seconds > 0 else None

    @property
    def budget(self) -> float | None:
        """Number of cores the process may use; None without samples."""
        return self.cpu[-1].budget if self.cpu else None

    def spans(self) -> tuple[list[Span], list[Span]]:
        """Waits and steps for :func:`~cleval_tm.workers.trace.summarize_waits`."""
        waits = [Span(wait.start, wait.end, wait.phase, wait.end - wait.start) for wait in self.waits]
        return waits, [Span(step.start, step.end, step.phase, step.end - step.start) for step in self.steps]


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                if not line.endswith("\n"):  # a run that was killed leaves half a line
                    return
                raise ValueError(
                    f"Expected line {number} of `{path}` to be a JSON object but got {line!r}"
                ) from None
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError(
                    f"Expected line {number} of `{path}` to be an event of a run but got {line!r}"
                )
            yield event


def read_records(path: str | Path) -> list[StepRecord]:
    """Reads a file that :class:`~cleval_tm.workers.StepTraceCallback` wrote.

    Args:
        path: A file ``steps.jsonl``.

    Returns:
        One record for each run that wrote to the file, in order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no event of a run; the message names it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "steps.jsonl"
        >>> writer = RecordWriter(path)
        >>> writer.write("wait", phase="train", step=1, start=0.5, seconds=0.25)
        >>> writer.flush()
        >>> read_records(path)[0].waits
        [Timed(phase='train', step=1, start=0.5, end=0.75, profiled=False)]
    """
    path = Path(path)
    records: list[StepRecord] = []
    for event in _events(path):
        kind = event["event"]
        if kind == "run":
            if event.get("version") != VERSION:
                raise ValueError(
                    f"Expected `{path}` to be of version {VERSION} but got {event.get('version')!r}"
                )
            records.append(StepRecord(event["started"], event["rank"]))
        elif not records:
            raise ValueError(f"Expected the first line of `{path}` to open a run but got {event!r}")
        elif kind == "cpu":
            records[-1].cpu.append(
                CpuSample(**{key: value for key, value in event.items() if key != "event"})
            )
        else:
            lists = {"wait": records[-1].waits, "step": records[-1].steps, "epoch": records[-1].epochs}
            if kind in lists:
                lists[kind].append(_timed(event))
    return records


def _timed(event: dict[str, Any]) -> Timed:
    start = event["start"]
    return Timed(event["phase"], event["step"], start, start + event["seconds"], bool(event.get("profiled")))
