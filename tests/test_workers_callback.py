"""StepTraceCallback in real fits: files, labels, wall times, CPU use, ranks, and the run left as it was."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

pl = pytest.importorskip("lightning.pytorch")
pytest.importorskip("psutil")

from cleval_tm.workers import StepTraceCallback, analyze_trace  # noqa: E402
from cleval_tm.workers.chrome import read_events  # noqa: E402
from cleval_tm.workers.cpu_sampler import CpuSampler, CpuUse  # noqa: E402
from cleval_tm.workers.record import RecordWriter, StepRecord, read_records  # noqa: E402

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Points(Dataset[torch.Tensor]):
    def __init__(self, length: int = 64, seconds: float = 0.0) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.full((3,), float(index))


class Endless(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Any:
        while True:
            yield torch.zeros(3)


class Module(pl.LightningModule):  # type: ignore[misc]
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.fail_at = fail_at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("a step that fails")
        batch = batch["a"] if isinstance(batch, dict) else batch
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.layer(batch)

    test_step = validation_step

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


def fit(callback: StepTraceCallback, train: Any, val: Any = None, fail_at: int = -1, **trainer: Any) -> Any:
    runner = pl.Trainer(callbacks=[callback], **{**QUIET, **trainer})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.fit(Module(fail_at), train, val)
    return runner


def loader(length: int = 64, workers: int = 0, seconds: float = 0.0) -> DataLoader[torch.Tensor]:
    return DataLoader(Points(length, seconds), batch_size=4, num_workers=workers)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def only_record(folder: Path) -> StepRecord:
    (record,) = read_records(folder / "steps.jsonl")
    return record


def labels(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for event in read_events(path):
        if event.get("cat") == "user_annotation":
            found[event["name"]] = found.get(event["name"], 0) + 1
    return found


def test_traces_every_n_steps_with_labels(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=10, active=4), loader(160), max_steps=35)
    assert files(tmp_path) == [
        "settings.json",
        "steps.jsonl",
        "trace_10.json",
        "trace_20.json",
        "trace_30.json",
    ]
    for step in (10, 20, 30):
        found = labels(tmp_path / f"trace_{step}.json")
        assert (found["model_train_step"], found["wait_for_train_batch"]) == (4, 4)
        assert analyze_trace(tmp_path / f"trace_{step}.json").phases["train"].steps == 3


def test_every_wait_and_step_is_recorded_and_profiled_ones_are_marked(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=10, active=4, warmup=2), loader(64), max_steps=34)
    record = only_record(tmp_path)
    assert [wait.step for wait in record.waits] == list(range(1, 35))
    assert [step.step for step in record.steps] == list(range(1, 35))
    inside = {step for end in (10, 20, 30) for step in range(end - 5, end + 1)}
    assert {step.step for step in record.steps if step.profiled} == inside
    assert {wait.step for wait in record.waits if wait.profiled} == inside | {
        11,
        21,
        31,
    }  # the trace's export
    for wait, step in zip(record.waits, record.steps, strict=True):
        assert wait.start <= wait.end <= step.start <= step.end
    assert [epoch.step for epoch in record.epochs] == [1, 17, 33]


def test_waits_are_as_long_as_the_loader_takes(tmp_path: Path) -> None:
    start = time.perf_counter()
    fit(StepTraceCallback(tmp_path), loader(64, seconds=0.005), max_steps=12)
    took = time.perf_counter() - start
    waits = [wait.end - wait.start for wait in only_record(tmp_path).waits]
    assert all(wait >= 0.02 for wait in waits)
    assert sum(waits) < took


def test_settings_say_how_the_run_was_set_up(tmp_path: Path) -> None:
    val = [loader(8), DataLoader(Points(9), batch_size=2, num_workers=1, persistent_workers=True)]
    fit(StepTraceCallback(tmp_path), {"a": loader(64, workers=2), "b": loader(64)}, val, max_steps=3)
    settings = json.loads((tmp_path / "settings.json").read_text())
    train, validation = settings["loaders"]["train"], settings["loaders"]["val"]
    assert [(one["name"], one["num_workers"], one["batch_size"]) for one in train] == [
        ("a", 2, 4),
        ("b", 0, 4),
    ]
    assert [(one["name"], one["persistent_workers"], one["batches"]) for one in validation] == [
        ("0", False, 2),
        ("1", True, 5),
    ]
    assert settings["device"] == "cpu"
    assert settings["versions"]["torch"] == torch.__version__
    assert {"python", "cleval-tm", "lightning"} <= set(settings["versions"])
    assert 0 < settings["cpu_budget"] <= settings["cpu_count"]


def test_compressed(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=10, compress=True), loader(), max_steps=10)
    assert "trace_10.json.gz" in files(tmp_path)
    assert json.loads(gzip.decompress((tmp_path / "trace_10.json.gz").read_bytes()))["traceEvents"]


def test_a_short_run_is_traced_at_its_end(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=100), loader(64), max_epochs=1)
    assert files(tmp_path) == ["settings.json", "steps.jsonl", "trace_16.json"]
    assert analyze_trace(tmp_path / "trace_16.json").phases["train"].steps == 4


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_run_of_few_steps_does_not_fail(tmp_path: Path, steps: int) -> None:
    fit(StepTraceCallback(tmp_path), loader(), max_steps=steps)
    assert len(only_record(tmp_path).waits) == steps
    fit(StepTraceCallback(tmp_path / "fast"), loader(), loader(8), fast_dev_run=True)


def test_evaluations_are_traced_once_in_n_steps(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=20, active=4), loader(32), loader(40), max_steps=48)
    assert [name for name in files(tmp_path) if "val" in name] == ["trace_32_val.json", "trace_8_val.json"]
    found = labels(tmp_path / "trace_8_val.json")
    assert (found["model_val_step"], found["wait_for_val_batch"]) == (4, 4)
    assert list(analyze_trace(tmp_path / "trace_8_val.json").phases) == ["val"]


def test_a_window_that_validation_cuts_short_is_made_up_for(tmp_path: Path) -> None:
    callback = StepTraceCallback(tmp_path, every_n_steps=10, active=4, trace_evaluation=False)
    fit(callback, loader(7 * 4), loader(40), max_steps=28)
    traces = [name for name in files(tmp_path) if name.startswith("trace")]
    assert "trace_13.json" in traces  # steps 5 to 10 were due, a validation followed step 7
    for name in traces:
        assert set(analyze_trace(tmp_path / name).phases) == {"train"}


def test_epochs_shorter_than_a_window(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=12), loader(16), loader(8), max_steps=24)
    traces = [name for name in files(tmp_path) if "val" not in name and name.startswith("trace")]
    assert traces == ["trace_12.json", "trace_24.json"]
    assert analyze_trace(tmp_path / "trace_12.json").phases["train"].steps == 2


class SlowToStart(DataLoader[torch.Tensor]):
    """Takes long to start an epoch, as many workers do."""

    def __iter__(self) -> Any:
        time.sleep(0.3)
        return super().__iter__()


def test_the_start_of_an_epoch_is_part_of_the_first_wait_in_trace_and_record(tmp_path: Path) -> None:
    train = SlowToStart(Points(40), batch_size=4)
    fit(StepTraceCallback(tmp_path, every_n_steps=14, warmup=1, active=6), train, max_steps=20)
    waits = analyze_trace(tmp_path / "trace_14.json").phases["train"]  # steps 9 to 14, an epoch ends after 10
    assert waits.steps == 5
    assert (waits.longest_wait_step, waits.longest_wait >= 0.3) == (1, True)
    second = only_record(tmp_path).epochs[1]
    assert second.end - second.start >= 0.3
    assert second.step == 11


def test_the_sanity_check_is_not_recorded(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path), loader(16), loader(40), max_epochs=1, num_sanity_val_steps=2)
    assert sum(wait.phase == "val" for wait in only_record(tmp_path).waits) == 10


def test_accumulated_gradients_count_batches(tmp_path: Path) -> None:
    fit(
        StepTraceCallback(tmp_path, every_n_steps=10, active=3),
        loader(160),
        max_steps=5,
        accumulate_grad_batches=4,
    )
    assert [name for name in files(tmp_path) if name.startswith("trace")] == [
        "trace_10.json",
        "trace_20.json",
    ]


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    runner = fit(StepTraceCallback(tmp_path / "first", every_n_steps=10), loader(80), max_epochs=1)
    runner.save_checkpoint(tmp_path / "c.ckpt")
    again = pl.Trainer(
        callbacks=[StepTraceCallback(tmp_path / "second", every_n_steps=10)], max_epochs=2, **QUIET
    )
    again.fit(Module(), loader(80), ckpt_path=tmp_path / "c.ckpt")
    assert [name for name in files(tmp_path / "second") if name.startswith("trace")] == [
        "trace_30.json",
        "trace_40.json",
    ]
    assert only_record(tmp_path / "second").waits[0].step == 21


def test_dataset_without_a_length(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, every_n_steps=10), DataLoader(Endless(), batch_size=2), max_steps=20)
    assert {"trace_10.json", "trace_20.json"} <= set(files(tmp_path))


def test_test_and_predict(tmp_path: Path) -> None:
    runner = pl.Trainer(callbacks=[StepTraceCallback(tmp_path)], **QUIET)
    runner.test(Module(), loader(48))
    runner.predict(Module(), loader(48))
    assert files(tmp_path) == ["settings.json", "steps.jsonl", "trace_0_predict.json", "trace_0_test.json"]
    for phase in ("test", "predict"):
        assert analyze_trace(tmp_path / f"trace_0_{phase}.json").phases[phase].steps == 4
    records = read_records(tmp_path / "steps.jsonl")
    assert [{wait.phase for wait in record.waits} for record in records] == [{"test"}, {"predict"}]


def test_cpu_use_of_main_process_and_workers(tmp_path: Path) -> None:
    fit(StepTraceCallback(tmp_path, sample_interval=0.1), loader(320, 2, seconds=0.005), max_steps=40)
    record = only_record(tmp_path)
    assert len(record.cpu) >= 3
    assert max(sample.processes for sample in record.cpu) >= 3
    assert record.cores is not None
    assert record.budget is not None
    assert 0 < record.cores < 4 * record.budget


def test_cpu_sampler_sees_what_children_do() -> None:
    samples: list[CpuUse] = []
    sampler = CpuSampler(samples.append, interval=0.5)
    sampler.start()
    busy = "import time; t = time.process_time()\nwhile time.process_time() - t < 1.0: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    sampler.stop()
    used = sum(sample.seconds * sample.cores for sample in samples)
    # Its time is counted, and once, although the process is gone; the system counts in hundredths, rounded down.
    assert 0.8 <= used < 1.6
    assert max(sample.processes for sample in samples) >= 2
    assert all(0 <= sample.others <= (os.cpu_count() or 1) + 0.5 for sample in samples)


def test_a_step_that_fails_leaves_what_was_recorded_and_no_profiler(tmp_path: Path) -> None:
    callback = StepTraceCallback(tmp_path, every_n_steps=10, active=4)
    runner = pl.Trainer(callbacks=[callback], max_steps=40, **QUIET)
    start = runner.profiler.start
    with pytest.raises(RuntimeError, match="a step that fails"):
        runner.fit(Module(fail_at=27), loader(160))
    assert len(only_record(tmp_path).steps) >= 27
    assert {"trace_10.json", "trace_20.json"} <= set(files(tmp_path))
    assert not torch.autograd.profiler._is_profiler_enabled
    assert runner.profiler.start == start
    assert "start" not in vars(runner.profiler)


def test_beside_lightnings_own_profiler_the_times_are_still_recorded(tmp_path: Path) -> None:
    from lightning.pytorch.profilers import PyTorchProfiler, SimpleProfiler

    fit(
        StepTraceCallback(tmp_path / "a", every_n_steps=10), loader(), max_steps=10, profiler=SimpleProfiler()
    )
    assert "trace_10.json" in files(tmp_path / "a")
    profiler = PyTorchProfiler(
        dirpath=tmp_path / "own", schedule=torch.profiler.schedule(wait=0, warmup=1, active=30)
    )
    runner = pl.Trainer(
        callbacks=[StepTraceCallback(tmp_path / "b", every_n_steps=10)],
        max_steps=10,
        profiler=profiler,
        **QUIET,
    )
    with pytest.warns(UserWarning, match="Another profiler is running"):
        runner.fit(Module(), loader())
    assert files(tmp_path / "b") == ["settings.json", "steps.jsonl"]
    assert len(only_record(tmp_path / "b").waits) == 10


def test_default_folder_is_the_trainers(tmp_path: Path) -> None:
    fit(StepTraceCallback(), loader(16), max_epochs=1, default_root_dir=tmp_path)
    assert "steps.jsonl" in files(tmp_path / "step_trace")


def test_default_folder_in_a_hydra_job_is_the_jobs(tmp_path: Path) -> None:
    hydra = pytest.importorskip("hydra")
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    with hydra.initialize(version_base=None, config_path=None):
        config = hydra.compose(return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path / "job")
    HydraConfig.instance().set_config(config)
    try:
        fit(StepTraceCallback(), loader(16), max_epochs=1, default_root_dir=tmp_path / "other")
    finally:
        HydraConfig.instance().cfg = None
    assert "steps.jsonl" in files(tmp_path / "job" / "step_trace")
    assert not (tmp_path / "other").exists()


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [StepTraceCallback(tmp_path, every_n_steps=10)]):
        pl.seed_everything(3)
        module = Module()
        shuffled = DataLoader(Points(), batch_size=4, shuffle=True)
        pl.Trainer(callbacks=callbacks, max_steps=20, **QUIET).fit(module, shuffled)
        weights.append(module.layer.weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` to be 1 or more but got 0"),
        ({"active": 0}, "`active` to be 1 or more"),
        ({"warmup": -1}, "`warmup` to be 0 or more"),
        ({"every_n_steps": 6}, r"at least `warmup` \+ `active` = 7 but got 6"),
        ({"sample_interval": 0}, "`sample_interval` to be above 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepTraceCallback(**options)


_RANKS = """
import sys, torch, warnings
warnings.simplefilter("ignore")
import lightning.pytorch as pl
from torch.utils.data import DataLoader
from tests_module import Module, Points, QUIET
from cleval_tm.workers import StepTraceCallback

if __name__ == "__main__":
    callback = StepTraceCallback(every_n_steps=10, sample_interval=0.1)
    options = {**QUIET, "devices": 2, "strategy": "ddp"}
    trainer = pl.Trainer(callbacks=[callback], max_steps=10, default_root_dir=sys.argv[1], **options)
    trainer.fit(Module(), DataLoader(Points(160), batch_size=4, num_workers=1))
"""


def test_ranks_write_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(_RANKS)
    (tmp_path / "tests_module.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "ranks.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "step_trace"
    both = ["settings", "steps", "trace_10"]
    ends = {"settings": ".json", "steps": ".jsonl", "trace_10": ".json"}
    assert files(folder) == sorted(f"{name}{rank}{ends[name]}" for name in both for rank in ("", "_rank1"))
    settings = [json.loads((folder / f"settings{rank}.json").read_text()) for rank in ("", "_rank1")]
    assert [one["global_rank"] for one in settings] == [0, 1]
    assert settings[0]["cpu_budget"] == settings[1]["cpu_budget"] <= len(os.sched_getaffinity(0)) / 2
    for rank in ("", "_rank1"):
        (record,) = read_records(folder / f"steps{rank}.jsonl")
        assert len(record.waits) == 10
        assert max(sample.processes for sample in record.cpu) == 2  # itself and its worker, no other rank


# The record


def test_record_round_trip_and_appended_runs(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    for run in range(2):
        writer = RecordWriter(path, rank=run)
        for step in range(600):
            writer.write("wait", phase="train", step=step, start=step * 0.1, seconds=0.05)
        writer.write("cpu", start=0.0, seconds=1.0, cores=1.5, budget=2.0, processes=3)
        writer.write("cpu", start=1.0, seconds=3.0, cores=0.5, budget=2.0, processes=3)
        writer.flush()
    records = read_records(path)
    assert [(record.rank, len(record.waits)) for record in records] == [(0, 600), (1, 600)]
    assert records[0].cores == pytest.approx((1.5 + 3 * 0.5) / 4)
    assert records[0].waits[7].end == pytest.approx(0.75)


def test_a_killed_run_leaves_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    writer = RecordWriter(path)
    writer.write("wait", phase="train", step=1, start=0.0, seconds=0.05)
    writer.flush()
    with path.open("a") as file:
        file.write('{"event": "wait", "pha')
    assert len(read_records(path)[0].waits) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"event": "wait"}\n', "first line of .* to open a run"),
        ("no json\n", "line 1 of .* to be a JSON object"),
        ("[1]\n", "line 1 of .* to be an event"),
        ('{"event": "run", "version": 99, "started": "", "rank": 0}\n', "to be of version 1 but got 99"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "steps.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path / "steps.jsonl")
