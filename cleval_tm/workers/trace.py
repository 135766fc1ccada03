"""Where a training step waits for data, read from a profiler's Chrome trace; standard library only."""

from __future__ import annotations

import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cleval_tm.workers.chrome import read_events
from cleval_tm.workers.streams import DeviceWork, StreamIdle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PhaseWaits", "Span", "TraceAnalysis", "analyze_trace", "summarize_waits", "wait_label"]

_PL = r"\[pl\]\[profile\]"
# What a fetch of a batch is called: by StepTraceCallback, by Lightning's PyTorchProfiler, by plain torch.
_WAIT_NAMES = (
    ("callback", re.compile(r"wait_for_(?P<phase>train|val|test|predict)_batch")),
    ("lightning", re.compile(_PL + r"\[_?TrainingEpochLoop\]\.(?P<phase>train)_dataloader_next")),
    ("lightning", re.compile(_PL + r"\[_?EvaluationLoop\]\.(?P<phase>val|test)_next")),
    ("lightning", re.compile(_PL + r"\[_?PredictionLoop\]\.(?P<phase>predict)_next")),
    (
        "torch",
        re.compile(r"enumerate\(DataLoader\)#_(?:Single|Multi)Process(?:ing)?DataLoaderIter\.__next__"),
    ),
)
_STEP_NAMES = (
    re.compile(r"model_(?P<phase>train|val|test|predict|eval)_step"),
    re.compile(_PL + r"run_(?P<phase>train)ing_batch"),
    re.compile(_PL + r"\[Strategy\]\w+\.(?P<phase>val|test|predict)(?:idation)?_step"),
)
_UNNAMED = "loop"
_BACK_TO_BACK = 1e-3
_BUSY = 0.95


def wait_label(phase: str) -> str:
    """The label of a fetch of ``phase`` (``"train"``, ``"val"``...) in the callback's traces."""
    return f"wait_for_{phase}_batch"


class Span(NamedTuple):
    """A stretch of time of one phase, in seconds since the first event of the trace.

    ``waited`` is the time spent fetching within it; it is shorter than the span where several fetches one
    after the other (two loaders in one loop) were put together.
    """

    start: float
    end: float
    phase: str
    waited: float


@dataclass(frozen=True)
class PhaseWaits:
    """How long the steps of one phase waited for data; times in seconds.

    A step runs from the end of one fetch to the end of the next, so it holds the step's own work, whatever
    the loop does between, and the wait for the next batch.

    Args:
        phase: ``"train"``, ``"val"``, ``"test"``, ``"predict"``, or ``"loop"`` where the trace does not say.
        steps: Number of whole steps.
        wait_share: Time spent waiting over the time of all steps, 0 to 1. In the callback's traces the wait for an
            epoch's first batch begins with the start of the workers; other profilers do not label that.
        step_median: Median time of a step, the wait in it included.
        wait_median: Median wait.
        wait_p95: 95th percentile of the waits.
        longest_wait: The longest wait.
        longest_wait_at: Where it starts, in seconds since the first event.
        longest_wait_step: In which step it is, counted from 0.
        work_share: Time inside labelled steps over the time of all steps; None where no step is labelled.
            What neither this nor ``wait_share`` accounts for is spent between: transfers, callbacks, logging.
    """

    phase: str
    steps: int
    wait_share: float
    step_median: float
    wait_median: float
    wait_p95: float
    longest_wait: float
    longest_wait_at: float
    longest_wait_step: int
    work_share: float | None = None

    def explain(self) -> str:
        """The figures in a sentence."""
        text = (
            f"{self.phase}: {self.steps} steps of {_ms(self.step_median)} (median); waiting for data is "
            f"{self.wait_share:.0%} of a step (median {_ms(self.wait_median)}, p95 {_ms(self.wait_p95)}, "
            f"longest {_ms(self.longest_wait)} in step {self.longest_wait_step}, "
            f"{self.longest_wait_at:.3f} s into the trace)"
        )
        if self.work_share is None:
            return text + "."
        between = max(0.0, 1.0 - self.work_share - self.wait_share)
        return text + f"; the step itself is {self.work_share:.0%}, what lies between {between:.0%}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


@dataclass(frozen=True)
class TraceAnalysis:
    """What :func:`analyze_trace` found.

    Args:
        path: The trace.
        source: Who labelled the fetches: ``"callback"`` (StepTraceCallback), ``"lightning"``
            (PyTorchProfiler) or ``"torch"`` (the DataLoader's own labels).
        phases: The waits by phase.
        streams: Idle times of the GPU's streams, the busiest first; empty where the trace holds no kernels.
        waits: Every fetch, in order.
        steps: Every labelled step, in order.
    """

    path: Path
    source: str
    phases: dict[str, PhaseWaits]
    streams: list[StreamIdle]
    waits: list[Span] = field(repr=False)
    steps: list[Span] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data (for JSON), without the single spans."""
        return {
            "path": str(self.path),
            "source": self.source,
            "phases": {name: asdict(phase) for name, phase in self.phases.items()},
            "streams": [asdict(stream) for stream in self.streams],
        }

    def explain(self) -> str:
        """The figures in words, a line for each phase and stream."""
        lines = [*(phase.explain() for phase in self.phases.values()), *map(str, self.streams)]
        if self.streams and self.streams[0].busy_share > _BUSY:
            lines.append(
                "The device is busy throughout, so the waits above cost little: the host is ahead of it."
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.path} (labels: {self.source})\n{self.explain()}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the timeline (fetches and steps) and below it the wait of each step.

        Args:
            ax: A matplotlib axes for the timeline alone; None makes a figure with both panels.

        Returns:
            The timeline's axes; ``.figure`` is the figure to save.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (extra ``plot``).
        """
        from cleval_tm.workers.trace_plot import draw

        return draw(self, ax)


def analyze_trace(path: str | Path) -> TraceAnalysis:
    """Finds how much of each training step is spent waiting for the DataLoader.

    Reads the Chrome traces of :class:`~cleval_tm.workers.StepTraceCallback`, of Lightning's
    ``PyTorchProfiler`` and of plain ``torch.profiler``. Nested fetches (a DataLoader's own label inside
    Lightning's) count once. The file is read as a stream, so its size does not matter.

    Args:
        path: A trace, ``.json`` or ``.json.gz``.

    Returns:
        The waits by phase, and where the trace has GPU kernels the idle times of their streams.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no trace, or has fewer than two fetches; the message says what to switch on.

    Example:
        >>> import json, pathlib, tempfile
        >>> fetch = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        >>> event = {"ph": "X", "name": fetch, "pid": 1, "tid": 1, "dur": 25e3}
        >>> events = [{**event, "ts": i * 100e3} for i in range(5)]
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "trace.json"
        >>> _ = path.write_text(json.dumps({"traceEvents": events}))
        >>> waits = analyze_trace(path).phases["loop"]
        >>> waits.steps, round(waits.wait_share, 3), round(waits.step_median, 3)
        (4, 0.25, 0.1)

    Source:
        The labels: ``torch.utils.data.dataloader._BaseDataLoaderIter``, ``lightning.pytorch.loops``.
    """
    path = Path(path)
    found = _Found()
    for event in read_events(path):
        found.add(event)
    source, waits, steps = found.spans(path)
    phases = summarize_waits(waits, steps)
    if not phases:
        raise ValueError(
            f"Expected `{path}` to hold two fetches in a row, but it holds {len(waits)} in all. Record more "
            f"steps in one window: `StepTraceCallback(active=5)`, or "
            f"`torch.profiler.schedule(wait=1, warmup=1, active=5)`."
        )
    streams = found.device.idle(found.origin, [wait.end for wait in waits])
    return TraceAnalysis(path, source, phases, streams, waits, steps)


class _Named(NamedTuple):
    thread: tuple[Any, Any]
    start: float
    end: float
    phase: str
    source: str


class _Found:
    """Collects, event by event, what of a trace matters: fetches, labelled steps, work of a device."""

    def __init__(self) -> None:
        self.events = 0
        self.origin = float("inf")
        self.device = DeviceWork()
        self._waits: list[_Named] = []
        self._steps: list[_Named] = []

    def add(self, event: dict[str, Any]) -> None:
        self.events += 1
        if event.get("ph") != "X" or "ts" not in event:
            return
        start, seconds = float(event["ts"]) * 1e-6, float(event.get("dur", 0)) * 1e-6
        category = event.get("cat", "")
        if category != "Trace":  # the profiler's own span begins before anything is recorded
            self.origin = min(self.origin, start)
        if category == "gpu_user_annotation":  # bears the names of the CPU's labels
            return
        if self.device.add(category, event, start, seconds):
            return
        kind = _kind(str(event.get("name", "")))
        if kind is not None:
            list_of, phase, source = kind
            thread = (event.get("pid"), event.get("tid"))
            named = _Named(thread, start, start + seconds, phase, source)
            (self._waits if list_of == "wait" else self._steps).append(named)

    def spans(self, path: Path) -> tuple[str, list[Span], list[Span]]:
        """Source, fetches and labelled steps, on one clock that starts with the first event."""
        waits, steps = _outermost(self._waits), _outermost(self._steps)
        if not waits:
            raise ValueError(_NOTHING_FOUND.format(path=path, events=self.events))
        source = next(s for s in ("callback", "lightning", "torch") if any(w.source == s for w in waits))
        if source != "torch":  # a DataLoader read ahead by a thread of its own keeps no step waiting
            threads = {wait.thread for wait in waits if wait.source != "torch"}
            waits = [wait for wait in waits if wait.thread in threads]
        placed = [_placed(wait, self.origin) for wait in waits]
        work = [_placed(step, self.origin) for step in steps]
        return source, _name_plain(placed, work), work


def _placed(named: _Named, origin: float) -> Span:
    return Span(named.start - origin, named.end - origin, named.phase, named.end - named.start)


@lru_cache(maxsize=4096)
def _kind(name: str) -> tuple[str, str, str] | None:
    """("wait" or "step", phase, source) of an event's name; None for all others."""
    for source, pattern in _WAIT_NAMES:
        if match := pattern.fullmatch(name):
            return "wait", match.groupdict().get("phase", _UNNAMED), source
    for pattern in _STEP_NAMES:
        if match := pattern.fullmatch(name):
            phase = match["phase"]
            return "step", "val" if phase == "eval" else phase, ""
    return None


def _outermost(named: list[_Named]) -> list[_Named]:
    """Without the spans that lie inside another of the same thread, in the order of their start."""
    kept: list[_Named] = []
    ends: dict[tuple[Any, Any], float] = {}
    for span in sorted(named, key=lambda s: (s.start, -s.end)):
        if span.start >= ends.get(span.thread, float("-inf")):
            kept.append(span)
            ends[span.thread] = span.end
    return kept


def _name_plain(waits: list[Span], steps: list[Span]) -> list[Span]:
    """Gives the DataLoader's own fetches, which name no phase, that of the labelled step that follows.

    Fetches back to back before one labelled step (two loaders in one loop) become one.
    """
    if not steps:
        return waits
    starts = [step.start for step in steps]
    named: list[Span] = []
    for wait, after in zip(waits, [*waits[1:], None], strict=True):
        step = bisect_left(starts, wait.end)
        follows = step < len(steps) and (after is None or starts[step] < after.start)
        phase = steps[step].phase if follows and wait.phase == _UNNAMED else wait.phase
        if named and named[-1].phase == _UNNAMED and wait.start - named[-1].end < _BACK_TO_BACK:
            first = named[-1]
            if bisect_left(starts, first.end) == step:
                named[-1] = Span(first.start, wait.end, phase, first.waited + wait.waited)
                continue
        named.append(wait._replace(phase=phase))
    return named


def summarize_waits(waits: Iterable[Span], steps: Iterable[Span] = ()) -> dict[str, PhaseWaits]:
    """The figures of each phase from its fetches.

    A step is counted between two fetches of one phase that follow each other; where another phase lies
    between (a validation run in the middle of an epoch), nothing is counted across it.

    Args:
        waits: Every fetch, in any order.
        steps: The labelled steps, if any.

    Returns:
        Figures by phase; phases with fewer than two fetches in a row are left out.
    """
    ordered = sorted(waits)
    periods: dict[str, list[tuple[Span, Span]]] = {}
    for before, after in pairwise(ordered):
        if before.phase == after.phase:
            periods.setdefault(before.phase, []).append((before, after))
    work: dict[str, list[Span]] = {}
    for step in sorted(steps):
        work.setdefault(step.phase, []).append(step)
    return {phase: _phase_waits(phase, pairs, work.get(phase, [])) for phase, pairs in periods.items()}


def _phase_waits(phase: str, pairs: list[tuple[Span, Span]], work: list[Span]) -> PhaseWaits:
    lengths = [after.end - before.end for before, after in pairs]
    waited = [after.waited for _, after in pairs]
    longest = max(range(len(pairs)), key=waited.__getitem__)
    total = sum(lengths)
    return PhaseWaits(
        phase=phase,
        steps=len(pairs),
        wait_share=sum(waited) / total if total > 0 else 0.0,
        step_median=statistics.median(lengths),
        wait_median=statistics.median(waited),
        wait_p95=_percentile(waited, 0.95),
        longest_wait=waited[longest],
        longest_wait_at=pairs[longest][1].start,
        longest_wait_step=longest,
        work_share=sum(_inside(pairs, work)) / total if work and total > 0 else None,
    )


def _inside(pairs: list[tuple[Span, Span]], work: list[Span]) -> Iterable[float]:
    """For each step, the time of the labelled work in it, less the fetches inside that work."""
    starts = [span.start for span in work]
    for before, after in pairs:
        for span in work[bisect_left(starts, before.end) : bisect_right(starts, after.end)]:
            fetched = after.waited if span.end > after.start else 0.0
            yield max(0.0, span.end - span.start - fetched)


def _percentile(values: list[float], share: float) -> float:
    """Linear interpolation between the closest ranks, as numpy's default."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


_NOTHING_FOUND = (
    "Expected `{path}` to hold fetches of batches, but none of its {events} events is one. Record at least "
    "two whole steps on the CPU, with one of: `Trainer(callbacks=[cleval_tm.workers.StepTraceCallback()])`; "
    "Lightning's `Trainer(profiler=PyTorchProfiler(dirpath=...))`; `torch.profiler.profile(activities="
    "[ProfilerActivity.CPU, ...])` around a loop over a torch DataLoader (other loaders leave no label: put "
    "`torch.profiler.record_function('wait_for_train_batch')` around each fetch)."
)
