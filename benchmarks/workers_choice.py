"""Which num_workers does a tool choose, and was that right? Ours against loadtune, checked by direct measurement.

Each workload says what is right. In the same run each tool chooses, then plain loops over plain DataLoaders measure the
candidates (both picks among them), in interleaved rounds, with none of the tools' code. A pick is right if it is
what the workload asks for and its time is within 10 % of the best measured; where the scatter of these measurements
hides that, the report says unclear.

    python benchmarks/workers_choice.py                      # all workloads, about half an hour
    python benchmarks/workers_choice.py io memory --json out.json
    python benchmarks/workers_choice.py --busy io            # with one core kept busy by another process

loadtune 0.3.0 takes part where it is installed (``pip install loadtune==0.3.0``), else the report says that it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from cleval_tm.workers import sweep_workers

RIGHT = 1.10
ROUNDS = 7
SECONDS = 1.5


class Sleeping(Dataset[torch.Tensor]):
    """Waits for each sample, as for a network disk."""

    def __init__(self, length: int, seconds: float) -> None:
        self.length = length
        self.seconds = seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.zeros(3, 32, 32)


class InMemory(Dataset[torch.Tensor]):
    """Costs next to nothing."""

    def __init__(self, length: int) -> None:
        self.images = torch.randn(length, 3, 32, 32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


class Transformed(Dataset[torch.Tensor]):
    """Keeps a CPU busy for a few milliseconds a sample: blur, noise and contrast of an image, in numpy."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        random = np.random.default_rng(index)
        image = random.random((3, 96, 96), dtype=np.float32)
        for _ in range(6):
            image = (image + np.roll(image, 1, 1) + np.roll(image, 1, 2) + np.roll(image, -1, 1)) / 4
            image += 0.01 * random.standard_normal(image.shape, dtype=np.float32)
            image = np.sqrt(np.clip(image, 0, 1))
        return torch.from_numpy(image)


@dataclass(frozen=True)
class Workload:
    """What is loaded, what a step costs, and which answers are right.

    Attributes:
        title: For the report.
        make: Makes the dataset.
        batch: Batch size.
        step: Seconds of a step that keeps an accelerator busy, not the CPU.
        current: Values of ``num_workers`` to start from.
        right: Whether a number of workers is what the issue of this workload asks for.
        asks: The same in words.
        candidates: What is measured directly, besides the picks.
    """

    title: str
    make: Callable[[], Dataset[torch.Tensor]]
    batch: int
    step: float
    current: tuple[int, ...]
    right: Callable[[int], bool]
    asks: str
    candidates: tuple[int, ...] = (0, 1, 2, 3, 4, 8, 12)


def _any(workers: int) -> bool:
    return True


WORKLOADS = {
    "io": Workload(
        "8 × 5 ms of sleep, step 20 ms", lambda: Sleeping(800, 0.005), 8, 0.020, (12,), lambda w: w == 2, "2"
    ),
    "memory": Workload(
        "in memory, step 5 ms", lambda: InMemory(3200), 8, 0.005, (0, 2, 12), lambda w: w == 0, "0"
    ),
    "cpu": Workload(
        "CPU-bound transform, step 10 ms", lambda: Transformed(800), 8, 0.010, (0,), _any, "the fastest"
    ),
    "deep": Workload(
        "16 × 5 ms of sleep, step 10 ms",
        lambda: Sleeping(1600, 0.005),
        16,
        0.010,
        (0,),
        lambda w: w >= 8,
        "8 or more",
        (0, 2, 4, 6, 8, 12, 16),
    ),
    "short": Workload(
        "epochs of 4 batches, 8 × 5 ms, step 20 ms",
        lambda: Sleeping(32, 0.005),
        8,
        0.020,
        (4,),
        _any,
        "the fastest",
    ),
}


@contextlib.contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """Another process that keeps one core busy, if wanted."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def ours(workload: Workload, current: int) -> dict[str, Any]:
    loader = DataLoader(workload.make(), batch_size=workload.batch, num_workers=current)
    begin = time.perf_counter()
    sweep = sweep_workers(loader, workload.step, variants=False, progress=sys.stderr.isatty())
    return {
        "pick": sweep.suggestion(),
        "took_s": time.perf_counter() - begin,
        "conclusive": sweep.conclusive,
        "said": sweep.explain(),
        "seconds_per_step": {row.num_workers: row.seconds_per_step for row in sweep.results},
    }


def theirs(workload: Workload) -> dict[str, Any] | None:
    """loadtune's pick: its best trial where that beats its baseline of 0 workers; None where it is missing."""
    try:
        import loadtune
    except ImportError:
        return None

    def train_step(model: Any, optimizer: Any, batch: Any, device: Any) -> torch.Tensor:
        time.sleep(workload.step)
        return torch.zeros(())

    task = loadtune.Workload(
        name=workload.title,
        make_dataset=workload.make,
        make_model=lambda: torch.nn.Linear(1, 1),
        train_step=train_step,
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0),
        default_batch_size=workload.batch,
    )
    threads = torch.get_num_threads()
    begin = time.perf_counter()
    try:
        found = loadtune.tune(task, verbose=False)
    except Exception as error:  # a tool that fails has made no choice
        return {
            "pick": None,
            "took_s": time.perf_counter() - begin,
            "said": f"{type(error).__name__}: {error}",
        }
    finally:
        torch.set_num_threads(threads)
    better = found.best is not None and found.best.throughput > found.baseline.throughput
    return {
        "pick": found.best.knobs.num_workers if better else 0,
        "took_s": time.perf_counter() - begin,
        "said": found.diagnosis,
    }


def one_run(workload: Workload, workers: int) -> float:
    """Seconds per step of whole epochs, at least :data:`SECONDS` long, in a plain loop."""
    loader = DataLoader(workload.make(), batch_size=workload.batch, num_workers=workers)
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        for _ in loader:
            time.sleep(workload.step)
            steps += 1
    return (time.perf_counter() - begin) / steps


def measured(workload: Workload, candidates: set[int]) -> dict[int, list[float]]:
    """Seconds per step of each candidate in each round; every other round runs downwards."""
    runs: dict[int, list[float]] = {workers: [] for workers in sorted(candidates)}
    for number in range(ROUNDS):
        for workers in sorted(runs, reverse=number % 2 == 1):
            runs[workers].append(one_run(workload, workers))
    return runs


def against(runs: dict[int, list[float]], pick: int, best: int) -> tuple[float, float]:
    """The pick's time over the best's, the median over rounds, and how far half of the rounds are off at most."""
    ratios = [one / other for one, other in zip(runs[pick], runs[best], strict=True)]
    middle = median(ratios)
    return middle, median(abs(ratio - middle) for ratio in ratios)


def verdict(workload: Workload, pick: int | None, ratio: float, scatter: float) -> str:
    if pick is None or not workload.right(pick) or ratio - scatter > RIGHT:
        return "no"
    return "yes" if ratio <= RIGHT else "unclear"


def compared(name: str, busy: bool) -> list[dict[str, Any]]:
    """One row for each tool and starting value."""
    workload = WORKLOADS[name]
    with neighbour(busy), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picks = [(f"cleval_tm from {current}", ours(workload, current)) for current in workload.current]
        peer = theirs(workload)
        if peer is not None:
            picks.append(("loadtune", peer))
        chosen = {found["pick"] for _, found in picks if found["pick"] is not None}
        runs = measured(workload, {*workload.candidates, *chosen})
    times = {workers: median(values) for workers, values in runs.items()}
    best = min(times, key=lambda workers: times[workers])
    rows = []
    for tool, found in picks:
        pick = found["pick"]
        ratio, scatter = against(runs, pick, best) if pick is not None else (float("nan"), 0.0)
        row = {"workload": name, "busy": busy, "tool": tool, **found, "ratio": ratio, "scatter": scatter}
        rows.append(
            {**row, "right": verdict(workload, pick, ratio, scatter), "best": best, "measured": times}
        )
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    workload = WORKLOADS[rows[0]["workload"]]
    busy = ", one core busy" if rows[0]["busy"] else ""
    table = Table(title=f"{workload.title}{busy} (right: {workload.asks})", title_justify="left")
    for column in ("tool", "pick", "its time", "best measured", "ratio", "right", "took"):
        table.add_column(column, justify="left" if column == "tool" else "right")
    for row in rows:
        pick, best, times = row["pick"], row["best"], row["measured"]
        table.add_row(
            row["tool"],
            "none" if pick is None else str(pick),
            "" if pick is None else f"{1e3 * times[pick]:.1f} ms",
            f"{1e3 * times[best]:.1f} ms with {best}",
            "" if pick is None else f"{row['ratio']:.2f} ± {row['scatter']:.2f}",
            row["right"],
            f"{row['took_s']:.0f} s",
        )
    console.print(table)
    console.print(
        "  measured: " + ", ".join(f"{w}: {1e3 * t:.1f} ms" for w, t in rows[0]["measured"].items()) + "\n"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for the documentation."""
    lines = [
        "| workload | right is | tool | picks | time a step | best measured | right |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        workload, pick, best, times = WORKLOADS[row["workload"]], row["pick"], row["best"], row["measured"]
        busy = ", one core busy" if row["busy"] else ""
        own = "" if pick is None else f"{1e3 * times[pick]:.1f} ms"
        fastest = f"{1e3 * times[best]:.1f} ms with {best}"
        cells = (f"{workload.title}{busy}", workload.asks, row["tool"], str(pick), own, fastest, row["right"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"some of {', '.join(WORKLOADS)}; default all"
    )
    parser.add_argument("--busy", action="store_true", help="only with one core kept busy by another process")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write a table there")
    options = parser.parse_args()
    unknown = set(options.workloads) - WORKLOADS.keys()
    if unknown:
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    plan = [(name, options.busy) for name in options.workloads or WORKLOADS]
    if not options.workloads and not options.busy:
        plan += [(name, True) for name in ("io", "memory", "cpu")]
    console = Console(width=110)
    try:
        console.print(f"loadtune {metadata.version('loadtune')}, ", end="")
    except metadata.PackageNotFoundError:
        console.print("loadtune is not installed: only cleval_tm chooses; ", end="")
    console.print(f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs\n")
    rows = []
    for name, busy in plan:
        found = compared(name, busy)
        show(found, console)
        rows += found
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    right: dict[str, list[str]] = {}
    for row in rows:
        tool = row["tool"].split(" from ")[0]
        right.setdefault(tool, []).append(row["right"])
    for tool, marks in right.items():
        unclear = f", {marks.count('unclear')} unclear" if "unclear" in marks else ""
        console.print(f"{tool}: {marks.count('yes')} of {len(marks)} right{unclear}")
    if options.markdown:
        options.markdown.write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
