"""A Hydra multirun read back as a sweep: what its records, overrides and traces say, and what is wrong with some."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml")

from cleval_tm.workers import WorkerSweep, analyze_multirun
from cleval_tm.workers.job import read_job

KEY = "dataloaders.train_dataloader.num_workers"
FETCH = "[pl][profile][_TrainingEpochLoop].train_dataloader_next"


class Recorded:
    """Writes the record of a run whose times are known."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[dict[str, Any]] = [
            {"event": "run", "version": 1, "started": "2024-05-01T12:00:00", "rank": 0}
        ]

    def span(self, event: str, phase: str, step: int, seconds: float, **more: Any) -> None:
        self.lines.append(
            {"event": event, "phase": phase, "step": step, "start": self.now, "seconds": seconds, **more}
        )
        self.now += seconds

    def train(self, first: int, waits: list[float], work: float, profiled: range = range(0)) -> None:
        for step, wait in enumerate(waits, first):
            slow = {"profiled": True} if step in profiled else {}
            factor = 3 if slow else 1
            self.span("wait", "train", step, wait * factor, **slow)
            self.span("step", "train", step, work * factor, **slow)

    def cpu(self, cores: float, budget: float = 2.0, others: float = 0.0) -> None:
        use = {"cores": cores, "budget": budget, "processes": 3, "others": others, "cpus": 2}
        for t in range(int(self.now)):
            self.lines.append({"event": "cpu", "start": float(t), "seconds": 1.0, **use})

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def job(
    root: Path, number: int, workers: int, *, work: float = 0.02, wait: float = 0.0, **overrides: Any
) -> Path:
    folder = root / str(number)
    (folder / ".hydra").mkdir(parents=True)
    lines = [
        "trainer.max_steps=200",
        *(f"{k.replace('__', '.')}={v}" for k, v in overrides.items()),
        f"{KEY}={workers}",
    ]
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {line}\n" for line in lines))
    record = Recorded()
    rng = random.Random(number)
    record.train(1, [wait * rng.uniform(0.9, 1.1) for _ in range(200)], work)
    record.cpu(cores=0.4 + 0.4 * workers)
    record.write(folder / "step_trace")
    settings = {"loaders": {"train": [{"num_workers": workers, "prefetch_factor": 2 if workers else None}]}}
    (folder / "step_trace" / "settings.json").write_text(json.dumps(settings))
    return folder


def test_each_job_is_a_row(tmp_path: Path) -> None:
    for number, (workers, wait) in enumerate([(0, 0.04), (2, 0.001), (12, 0.001)]):
        job(tmp_path, number, workers, wait=wait)
    sweep = analyze_multirun(tmp_path, current=12)
    assert isinstance(sweep, WorkerSweep)
    assert sweep.single_run
    assert sweep.loader == "dataloaders.train_dataloader"
    assert sweep.cpus == 2.0
    assert [row.num_workers for row in sweep.results] == [0, 2, 12]
    none, two, twelve = sweep.results
    assert none.seconds_per_step == pytest.approx(0.06, rel=0.02)
    assert none.wait_share == pytest.approx(2 / 3, abs=0.01)
    assert two.wait_share == pytest.approx(1 / 21, abs=0.01)
    assert (none.cpu_use, two.cpu_use) == (pytest.approx(0.2), pytest.approx(0.6))
    assert (none.prefetch_factor, two.prefetch_factor) == (None, 2)
    assert len(two.times) == 8
    assert twelve.steps == 199 - 199 // 20
    assert sweep.suggestion() == 2
    assert "single run" in sweep.explain()
    assert WorkerSweep.from_json(sweep.to_json()) == sweep


def test_noise_is_that_of_the_blocks(tmp_path: Path) -> None:
    quiet, loud = Recorded(), Recorded()
    quiet.train(1, [0.01] * 200, 0.02)
    for block in range(20):
        loud.train(1 + 10 * block, [0.01 if block % 2 else 0.05] * 10, 0.02)
    quiet.write(tmp_path / "a")
    loud.write(tmp_path / "b")
    a, b = read_job(tmp_path / "a"), read_job(tmp_path / "b")
    assert max(a.blocks) - min(a.blocks) < 1e-9
    assert max(b.blocks) - min(b.blocks) > 0.005


def test_profiled_steps_do_not_count(tmp_path: Path) -> None:
    record = Recorded()
    record.train(1, [0.01] * 200, 0.02, profiled=range(50, 100))
    record.write(tmp_path)
    found = read_job(tmp_path)
    assert found.blocks == pytest.approx([0.03] * len(found.blocks))
    assert found.steps == 199 - 51 - (199 - 51) // 20


def test_epoch_boundaries_count_and_validation_does_not(tmp_path: Path) -> None:
    record = Recorded()
    for epoch in range(10):
        if epoch:
            record.span("epoch", "train", 20 * epoch + 1, 0.2)  # the workers start
        record.train(20 * epoch + 1, [0.0] * 20, 0.05)
        for step in range(30):
            record.span("wait", "val", step, 0.3)
            record.span("step", "val", step, 0.2)
    record.write(tmp_path)
    found = read_job(tmp_path)
    assert found.startup == pytest.approx(0.2)
    assert sum(found.blocks) / len(found.blocks) == pytest.approx(0.05 + 9 * 0.2 / 190, rel=0.02)
    assert found.wait_share == pytest.approx(
        9 * 0.2 / (190 * 0.05 + 9 * 0.2), rel=0.02
    )  # for the workers to start


def test_the_validation_loader_can_be_the_one_that_was_swept(tmp_path: Path) -> None:
    for number, workers in enumerate((0, 2)):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(
            f"- dataloaders.val_dataloader.num_workers={workers}\n"
        )
        record = Recorded()
        for step in range(60):
            record.span("wait", "val", step + 1, 0.001 if workers else 0.03)
            record.span("step", "val", step + 1, 0.01)
        record.write(folder)
    sweep = analyze_multirun(tmp_path)
    assert sweep.loader == "dataloaders.val_dataloader"
    assert [round(row.seconds_per_step or 0, 3) for row in sweep.results] == [0.04, 0.011]


def test_seeds_are_repeats(tmp_path: Path) -> None:
    for number, (workers, seed) in enumerate((w, s) for w in (0, 2) for s in (1, 2, 3)):
        job(tmp_path, number, workers, wait=0.01, seed=seed)
    sweep = analyze_multirun(tmp_path)
    assert [len(row.times) for row in sweep.results] == [24, 24]


def test_other_settings_that_differ_are_an_error_until_one_is_picked(tmp_path: Path) -> None:
    for number, (workers, size) in enumerate((w, s) for w in (0, 2) for s in (8, 16)):
        job(tmp_path, number, workers, wait=0.01, data__batch_size=size)
    with pytest.raises(ValueError, match=r"`data\.batch_size` is 16, 8: pick one with where"):
        analyze_multirun(tmp_path)
    sweep = analyze_multirun(tmp_path, where={"data.batch_size": "8"})
    assert [len(row.times) for row in sweep.results] == [8, 8]
    with pytest.raises(ValueError, match="found none"):
        analyze_multirun(tmp_path, where={"data.batch_size": "9"})


def test_an_override_that_had_no_effect_is_an_error(tmp_path: Path) -> None:
    job(tmp_path, 0, 0)
    folder = job(tmp_path, 1, 4)
    settings = {"loaders": {"train": [{"num_workers": 12}]}}
    (folder / "step_trace" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="num_workers=4 but its loader had 12 workers"):
        analyze_multirun(tmp_path)


def test_two_keys_that_were_swept_need_a_choice(tmp_path: Path) -> None:
    for number, workers in enumerate((0, 2)):
        job(tmp_path, number, workers, wait=0.01, val__num_workers=workers)
    with pytest.raises(ValueError, match=r"differ in dataloaders.*, val\.num_workers: pass `key`"):
        analyze_multirun(tmp_path)


def test_a_job_that_failed_is_said_and_never_suggested(tmp_path: Path) -> None:
    job(tmp_path, 0, 0, wait=0.04)
    job(tmp_path, 1, 2, wait=0.001)
    failed = job(tmp_path, 2, 4)
    (failed / "step_trace" / "steps.jsonl").unlink()
    short = job(tmp_path, 3, 8)
    record = Recorded()
    record.train(1, [0.0] * 5, 0.01)
    record.write(short / "step_trace")
    sweep = analyze_multirun(tmp_path)
    assert "neither a steps.jsonl nor a trace" in sweep.row(4).failures[0]
    assert "unprofiled train steps; 8 are needed" in sweep.row(8).failures[0]
    assert sweep.suggestion() == 2


def test_traces_alone_are_read_and_marked(tmp_path: Path) -> None:
    for number, workers in enumerate((0, 2)):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- {KEY}={workers}\n")
        for part in range(3):
            base = {"ph": "X", "pid": 1, "tid": 1, "name": FETCH, "dur": 1e3 if workers else 60e3}
            events = [{**base, "ts": i * (50e3 if workers else 100e3)} for i in range(10)]
            (folder / f"fit{part}.pt.trace.json").write_text(json.dumps({"traceEvents": events}))
    sweep = analyze_multirun(tmp_path)
    assert sweep.row(0).wait_share == pytest.approx(0.6)
    assert sweep.row(2).seconds_per_step == pytest.approx(0.05)
    assert any("profiled (slower) steps" in note for note in sweep.notes)
    assert "0 workers: waiting is 60%, 60%, 60% in 3 traces" in sweep.notes


def test_folders_of_runs_without_hydra(tmp_path: Path) -> None:
    for workers in (0, 2):
        record = Recorded()
        record.train(1, [0.0 if workers else 0.03] * 100, 0.01)
        record.write(tmp_path / f"w{workers}")
        settings = {"loaders": {"train": [{"num_workers": workers}]}}
        (tmp_path / f"w{workers}" / "settings.json").write_text(json.dumps(settings))
    sweep = analyze_multirun(tmp_path)
    assert (sweep.suggestion(), sweep.loader) == (2, None)


def test_busy_neighbours_are_said(tmp_path: Path) -> None:
    for workers in (0, 2):
        folder = job(tmp_path, workers, workers)
        record = Recorded()
        record.train(1, [0.01] * 100, 0.02)
        record.cpu(cores=1.0, others=0.5 * workers)
        record.write(folder / "step_trace")
    assert analyze_multirun(tmp_path).notes == (
        "Contention: other processes kept 0.0 to 1.0 of 2 CPUs busy while the jobs ran; the figures hold for a "
        "machine as busy as that.",
    )


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder of a Hydra multirun"):
        analyze_multirun(tmp_path / "none")
    with pytest.raises(ValueError, match="to hold jobs"):
        analyze_multirun(tmp_path)


def test_long_runs_are_read_in_linear_time(tmp_path: Path) -> None:
    record = Recorded()
    for epoch in range(200):
        record.train(200 * epoch + 1, [0.001] * 200, 0.002)
        for step in range(50):
            record.span("wait", "val", step, 0.001)
    record.write(tmp_path)
    assert (
        read_job(tmp_path).steps == 39999 - 39999 // 20
    )  # quadratic work would not end within the test's limit
