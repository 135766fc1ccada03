"""The drawing of a trace's timeline and waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cleval_tm.workers.trace import Span, TraceAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WAITS, _STEPS = "#c8553d", "#588b8b"


def draw(analysis: TraceAnalysis, ax: Axes | None) -> Axes:
    """Draws the timeline into ``ax``, or timeline and waits into a new figure."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, (ax, below) = plt.subplots(2, 1, figsize=(10, 4.5), layout="constrained", height_ratios=(1, 1.4))
        _draw_waits(analysis, below)
    _draw_timeline(analysis, ax)
    return ax


def _draw_timeline(analysis: TraceAnalysis, ax: Axes) -> None:
    phases = list(analysis.phases)
    for row, phase in enumerate(phases):
        for spans, color, label in ((analysis.steps, _STEPS, "step"), (analysis.waits, _WAITS, "wait")):
            bars = _bars(spans, phase)
            if bars:
                ax.broken_barh(bars, (row - 0.35, 0.7), facecolor=color, label=label if row == 0 else None)
    ax.set_yticks(range(len(phases)), phases)
    ax.set_ylim(-0.6, len(phases) - 0.4)
    ax.set_xlabel("seconds since the first event")
    shares = ", ".join(f"{phase} {waits.wait_share:.0%}" for phase, waits in analysis.phases.items())
    ax.set_title(f"{analysis.path.name}: waiting for data ({shares})", loc="left", fontsize="medium")
    ax.legend(loc="upper right", fontsize="small", ncols=2)


def _bars(spans: Sequence[Span], phase: str) -> list[tuple[float, float]]:
    return [(span.start, span.end - span.start) for span in spans if span.phase == phase]


def _draw_waits(analysis: TraceAnalysis, ax: Axes) -> None:
    for marker, phase in zip("os^D*", analysis.phases, strict=False):
        waits = [span for span in analysis.waits if span.phase == phase]
        ax.plot(
            [span.end for span in waits],
            [span.waited * 1e3 for span in waits],
            linestyle="-",
            linewidth=0.7,
            marker=marker,
            markersize=4,
            label=phase,
        )
    ax.set_ylim(bottom=0)
    ax.set_xlabel("end of the fetch, seconds since the first event")
    ax.set_ylabel("wait in ms")
    ax.legend(fontsize="small")
