"""What StepTraceCallback costs: the same fit with and without it, in turn, for steps of several lengths.

Run: ``python benchmarks/trace_overhead.py [--steps 400] [--repeats 5]``. Reports the median step without it, with it
(steps that are not profiled), while profiling, and what a trace costs once (start, stop, export).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import psutil
import torch
from torch.utils.data import DataLoader, TensorDataset

from cleval_tm.workers import StepTraceCallback
from cleval_tm.workers.cpu_sampler import machine_cpu_seconds, tree_cpu_seconds
from cleval_tm.workers.record import read_records

ACTIVE, WARMUP, EVERY = 5, 2, 100


class Clock(pl.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


class Layers(pl.LightningModule):
    """A stack of layers; its depth sets the length of a step."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(depth)))
        self.width = width

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layers(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-4)


def fit(depth: int, width: int, steps: int, callbacks: list[pl.Callback]) -> list[float]:
    """Lengths of the steps of one fit, in seconds."""
    clock = Clock()
    data = DataLoader(TensorDataset(torch.randn(64 * steps, width)), batch_size=64)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        enable_model_summary=False,
        callbacks=[*callbacks, clock],
        **quiet,
    )
    trainer.fit(Layers(depth, width), data)
    return [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]


def compare(depth: int, width: int, steps: int, repeats: int) -> dict[str, float]:
    """Median step in ms without, with, and while profiling; a trace's own cost in ms."""
    plain, beside, profiled, traces = [], [], [], []
    for _ in range(repeats):
        plain.append(median(fit(depth, width, steps, [])[20:]))
        with tempfile.TemporaryDirectory() as folder:
            lengths = fit(depth, width, steps, [StepTraceCallback(folder, every_n_steps=EVERY)])
            (record,) = read_records(Path(folder) / "steps.jsonl")
        slow = {step.step for step in record.steps if step.profiled}
        opened = {step for step in slow if step - 1 not in slow}
        closed = {step + 1 for step in slow if step + 1 not in slow}
        by_step = dict(enumerate(lengths, 2))
        calm = [seconds for step, seconds in by_step.items() if step > 20 and step not in slow | closed]
        beside.append(median(calm))
        profiled.append(median(by_step[step] for step in slow - opened))
        ends = [by_step[step] for step in opened | closed if step in by_step]
        traces.append((sum(ends) - len(ends) * beside[-1]) / max(1, len(opened)))
    return {
        "without": median(plain) * 1e3,
        "with": median(beside) * 1e3,
        "ratio": median(b / p for b, p in zip(beside, plain, strict=True)),
        "profiled": median(profiled) * 1e3,
        "trace": median(traces) * 1e3,
    }


def sample_cost() -> float:
    """Milliseconds of CPU time that one sample of CPU use takes."""
    process, start = psutil.Process(), time.process_time()
    for _ in range(50):
        tree_cpu_seconds(process)
        machine_cpu_seconds()
    return (time.process_time() - start) / 50 * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print("ms/step: without | with | ratio | profiled (ratio) | once a trace")
    for depth, width in ((4, 64), (16, 256), (24, 512)):
        found = compare(depth, width, given.steps, given.repeats)
        print(
            f"{found['without']:8.2f} | {found['with']:6.2f} | {found['ratio']:5.3f} | {found['profiled']:6.2f} "
            f"({found['profiled'] / found['without']:.2f}) | {found['trace']:.0f} ms"
        )
    print(f"one sample of CPU use: {sample_cost():.2f} ms of CPU time, once a second")


if __name__ == "__main__":
    main()
