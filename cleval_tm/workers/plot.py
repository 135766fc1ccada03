"""A sweep as a picture; needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from cleval_tm.workers.result import WorkerSweep


def plot_sweep(sweep: WorkerSweep, ax: Axes | None = None) -> Figure | SubFigure:
    """Draw every repeat, the medians, the share of waiting in them, and the suggestion.

    Args:
        sweep: The sweep.
        ax: Where to draw; None makes a figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.ticker import FixedFormatter, FixedLocator
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib: pip install 'cleval-tm[plot]'") from error
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]
    rows = [row for row in sweep.results if row.ok]
    # Candidates stand side by side, evenly: 0, 1, 2, 4, 12 on a true scale would crowd where it matters.
    for place, row in enumerate(rows):
        middle = 1e3 * (row.seconds_per_step or 0.0)
        waiting = middle * (row.wait_share or 0.0)
        ax.bar(place, middle - waiting, color="#9ecae1", width=0.6, label="step" if not place else None)
        ax.bar(
            place,
            waiting,
            bottom=middle - waiting,
            color="#fd8d3c",
            width=0.6,
            label=None if place else "waiting",
        )
        label = None if place else ("blocks of the run" if sweep.single_run else "repeats")
        ax.plot([place] * len(row.times), [1e3 * t for t in row.times], "k.", markersize=5, label=label)
    ax.xaxis.set_major_locator(FixedLocator(range(len(rows))))
    ax.xaxis.set_major_formatter(FixedFormatter([str(row.num_workers) for row in rows]))
    ax.set_xlabel("num_workers")
    ax.set_ylabel("ms per step")
    ax.set_title(_title(sweep))
    if rows:
        chosen = [row.num_workers for row in rows].index(sweep.suggestion())
        ax.axvspan(chosen - 0.45, chosen + 0.45, color="#74c476", alpha=0.3, zorder=0, label="suggestion")
        ax.legend()
    return ax.figure


def _title(sweep: WorkerSweep) -> str:
    if not any(row.ok for row in sweep.results):
        return "no candidate could be measured"
    name = f"{sweep.loader}: " if sweep.loader else ""
    doubt = "" if sweep.conclusive else " (inconclusive)"
    return f"{name}num_workers = {sweep.suggestion()}{doubt}"
