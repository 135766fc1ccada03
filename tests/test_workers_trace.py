"""Waits read from traces: real profiler runs whose share of waiting a clock knows, and files in every form."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset

from cleval_tm.workers import analyze_trace
from cleval_tm.workers.chrome import read_events
from cleval_tm.workers.trace import Span, summarize_waits

SINGLE = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
MULTI = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
TRAIN_NEXT = "[pl][profile][_TrainingEpochLoop].train_dataloader_next"
VAL_NEXT = "[pl][profile][_EvaluationLoop].val_next"
STEP = 0.02


class Sleepy(Dataset[torch.Tensor]):
    """Samples that take time but no processor."""

    @classmethod
    def for_workers(cls, num_workers: int) -> Sleepy:
        """So slow that steps wait long for a batch of 4, with as many workers as well as without."""
        return cls(0.012 if num_workers == 0 else 0.02 * num_workers)

    def __init__(self, seconds: float, length: int = 400) -> None:
        self.seconds, self.length = seconds, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.ones(3)


class Clock:
    """Share of waiting by the clock, defined as the analysis does: from the end of one fetch to the next's."""

    def __init__(self) -> None:
        self.fetches: list[tuple[float, float]] = []

    def share(self) -> float:
        waited = sum(end - start for start, end in self.fetches[1:])
        return waited / (self.fetches[-1][1] - self.fetches[0][1])


def event(name: str, ts: float, dur: float, tid: int = 1, **more: Any) -> dict[str, Any]:
    """An event as torch.profiler writes it, from milliseconds."""
    return {
        "ph": "X",
        "cat": "user_annotation",
        "name": name,
        "pid": 1,
        "tid": tid,
        "ts": ts * 1e3,
        "dur": dur * 1e3,
        **more,
    }


def written(tmp_path: Path, events: list[dict[str, Any]], name: str = "trace.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events, "traceName": "x"}))
    return path


# Real runs


@pytest.mark.parametrize("num_workers", [0, 2])
def test_wait_share_of_a_plain_torch_run(tmp_path: Path, num_workers: int) -> None:
    clock = Clock()
    loader = iter(DataLoader(Sleepy.for_workers(num_workers), batch_size=4, num_workers=num_workers))
    for _ in range(2 * num_workers + 1):  # what the workers fetched ahead
        next(loader)
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        for _ in range(25):
            start = time.perf_counter()
            next(loader)
            clock.fetches.append((start, time.perf_counter()))
            time.sleep(STEP)
    prof.export_chrome_trace(str(tmp_path / "t.json"))
    analysis = analyze_trace(tmp_path / "t.json")
    waits = analysis.phases["loop"]
    assert analysis.source == "torch"
    assert waits.steps == 24
    assert waits.wait_share == pytest.approx(clock.share(), abs=0.02)
    assert waits.wait_share > (0.6 if num_workers == 0 else 0.3)
    assert waits.longest_wait == pytest.approx(max(e - s for s, e in clock.fetches[1:]), rel=0.1, abs=2e-3)


def _fit(num_workers: int, steps: int, **trainer: Any) -> Clock:
    """A real fit; the clock around the fetches is a wrapped loader, innermost of all."""
    pl = pytest.importorskip("lightning.pytorch")
    clock = Clock()

    class Timed(DataLoader[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
            batches = super().__iter__()
            while True:
                start = time.perf_counter()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                clock.fetches.append((start, time.perf_counter()))
                yield batch

    class Module(pl.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            time.sleep(STEP)
            return self.layer(batch).sum()

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            time.sleep(STEP)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    fit = pl.Trainer(max_steps=steps, accelerator="cpu", devices=1, **quiet, **trainer)
    fit.fit(Module(), Timed(Sleepy.for_workers(num_workers), batch_size=4, num_workers=num_workers))
    return clock


@pytest.mark.parametrize("num_workers", [0, 2])
def test_wait_share_of_lightnings_own_profiler(tmp_path: Path, num_workers: int) -> None:
    profilers = pytest.importorskip("lightning.pytorch.profilers")
    active = 16
    profiler = profilers.PyTorchProfiler(
        dirpath=tmp_path,
        filename="fit",
        schedule=torch.profiler.schedule(wait=6, warmup=1, active=active, repeat=1),
    )
    clock = _fit(num_workers, 26, profiler=profiler)
    (path,) = tmp_path.glob("*.pt.trace.json")
    analysis = analyze_trace(path)
    waits = analysis.phases["train"]
    assert analysis.source == "lightning"
    assert waits.steps >= active - 2
    assert _share_of_last(clock, analysis, 26) == pytest.approx(waits.wait_share, abs=0.02)
    assert waits.wait_share > (0.6 if num_workers == 0 else 0.3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_wait_share_of_the_callback(tmp_path: Path, num_workers: int) -> None:
    pytest.importorskip("psutil")
    pytest.importorskip("lightning.pytorch")
    from cleval_tm.workers import StepTraceCallback

    clock = _fit(num_workers, 24, callbacks=[StepTraceCallback(tmp_path, every_n_steps=24, active=16)])
    analysis = analyze_trace(tmp_path / "trace_24.json")
    waits = analysis.phases["train"]
    assert analysis.source == "callback"
    assert waits.steps == 15
    clock.fetches = clock.fetches[24 - 16 : 24]
    assert waits.wait_share == pytest.approx(clock.share(), abs=0.02)
    assert waits.wait_share > (0.6 if num_workers == 0 else 0.3)
    assert waits.work_share == pytest.approx(1 - waits.wait_share, abs=0.15)


def _share_of_last(clock: Clock, analysis: Any, steps: int) -> float:
    """The clock's share over as many fetches as the trace holds; the profiler ended before the run did."""
    held = analysis.phases["train"].steps + 1
    best = min(
        (clock.fetches[first : first + held] for first in range(steps - held + 1)),
        key=lambda some: sum(
            abs((end - start) - wait.waited) for (start, end), wait in zip(some, analysis.waits, strict=True)
        ),
    )
    found = Clock()
    found.fetches = best
    return found.share()


def test_plain_torch_with_labelled_steps(tmp_path: Path) -> None:
    loader = DataLoader(Sleepy(0.004, length=32), batch_size=4)
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        for _ in range(2):
            for phase in ("train", "eval"):
                for _ in loader:
                    with record_function(f"model_{phase}_step"):
                        time.sleep(0.005)
    prof.export_chrome_trace(str(tmp_path / "t.json"))
    phases = analyze_trace(tmp_path / "t.json").phases
    assert {"train", "val"} <= set(phases)
    assert phases["train"].work_share == pytest.approx(1 - phases["train"].wait_share, abs=0.1)


# Files


def test_nested_fetches_count_once(tmp_path: Path) -> None:
    events = []
    for i in range(6):
        events += [
            event(TRAIN_NEXT, 100 * i, 30),
            event(MULTI, 100 * i + 1, 14),
            event(SINGLE, 100 * i + 16, 13),
        ]
        events.append(event("[pl][profile]run_training_batch", 100 * i + 32, 60))
    waits = analyze_trace(written(tmp_path, events)).phases["train"]
    assert waits.steps == 5
    assert waits.wait_share == pytest.approx(0.3)
    assert waits.work_share == pytest.approx(0.6)


def test_loaders_of_a_step_one_after_the_other_count_as_one_wait(tmp_path: Path) -> None:
    events = []
    for i in range(5):
        events += [
            event(SINGLE, 100 * i, 10),
            event(SINGLE, 100 * i + 10.1, 20),
            event("model_train_step", 100 * i + 40, 50),
        ]
    waits = analyze_trace(written(tmp_path, events)).phases["train"]
    assert waits.steps == 4
    assert waits.wait_share == pytest.approx(0.3)


def test_phases_are_kept_apart_and_nothing_is_counted_across_them(tmp_path: Path) -> None:
    events = [event(TRAIN_NEXT, 100 * i, 20) for i in range(4)]
    events += [event(VAL_NEXT, 1000 + 50 * i, 25) for i in range(5)]
    events += [event(TRAIN_NEXT, 5000 + 100 * i, 20) for i in range(4)]
    phases = analyze_trace(written(tmp_path, events)).phases
    assert (phases["train"].steps, phases["val"].steps) == (6, 4)
    assert phases["train"].wait_share == pytest.approx(0.2)
    assert phases["val"].wait_share == pytest.approx(0.5)
    assert phases["train"].step_median == pytest.approx(0.1)


def test_longest_wait_and_where(tmp_path: Path) -> None:
    durations = [5, 10, 10, 40, 10, 10]
    events = [event(SINGLE, 100 * i, duration) for i, duration in enumerate(durations)]
    waits = analyze_trace(written(tmp_path, events)).phases["loop"]
    assert waits.longest_wait == pytest.approx(0.04)
    assert (waits.longest_wait_step, waits.longest_wait_at) == (2, pytest.approx(0.3))
    assert waits.wait_median == pytest.approx(0.01)
    assert waits.wait_p95 == pytest.approx(0.034)
    assert "longest 40 ms in step 2, 0.300 s into the trace" in waits.explain()


def test_a_fetch_inside_a_step_is_no_work(tmp_path: Path) -> None:
    events = []
    for i in range(5):  # training_step(self, dataloader_iter)
        events += [event("[pl][profile]run_training_batch", 100 * i, 95), event(TRAIN_NEXT, 100 * i + 5, 40)]
    waits = analyze_trace(written(tmp_path, events)).phases["train"]
    assert waits.wait_share == pytest.approx(0.4)
    assert waits.work_share == pytest.approx(0.55)


def test_a_thread_that_reads_ahead_keeps_no_step_waiting(tmp_path: Path) -> None:
    events = [event(TRAIN_NEXT, 100 * i, 10) for i in range(5)]
    events += [event(SINGLE, 30 * i, 29, tid=2) for i in range(16)]
    phases = analyze_trace(written(tmp_path, events)).phases
    assert list(phases) == ["train"]
    assert phases["train"].wait_share == pytest.approx(0.1)


def test_idle_stream_of_a_gpu(tmp_path: Path) -> None:
    """Events as in a trace of an H200: the kernels of a step run after the host launched them."""
    events = []
    for i in range(5):
        events.append(event(SINGLE, 100 * i, 40))
        for k, (start, length) in enumerate([(45, 20), (68, 12)]):
            number = 10 * i + k
            launch = {"cat": "cuda_runtime", "args": {"cbid": 211, "correlation": number}}
            work = {"cat": "kernel", "args": {"device": 0, "stream": 7, "correlation": number}}
            events.append(event("cudaLaunchKernel", 100 * i + 41 + k, 0.5, **launch))
            events.append(event("gemm", 100 * i + start, length, tid=7, **work) | {"pid": 0})
        events.append(
            event("model_train_step", 100 * i + 45, 35, tid=7, cat="gpu_user_annotation") | {"pid": 0}
        )
    copy = {"cat": "gpu_memcpy", "args": {"device": 0, "stream": 11, "correlation": 999}}
    events.append(event("Memcpy HtoD", 42, 1, tid=11, **copy) | {"pid": 0})
    analysis = analyze_trace(written(tmp_path, events))
    main, copies = analysis.streams
    assert (main.device, main.stream, main.operations) == (0, 7, 10)
    assert main.busy == pytest.approx(0.160)
    assert main.idle == pytest.approx(4 * 0.065 + 5 * 0.003)
    assert main.idle_between_steps == pytest.approx(4 * 0.065)
    assert (main.longest_idle, main.longest_idle_at) == (pytest.approx(0.065), pytest.approx(0.080))
    assert (copies.stream, copies.operations) == (11, 1)
    assert analysis.steps == []  # the device's copies of labels are no steps of the host
    assert "stream 7: busy 37% (10 operations), idle 275 ms, 260 ms of it between steps" in analysis.explain()


def test_waits_under_a_busy_device_are_said_to_cost_little(tmp_path: Path) -> None:
    events = [event(SINGLE, 100 * i, 80) for i in range(5)]
    work = {"cat": "kernel", "args": {"device": 0, "stream": 7, "correlation": 1}}
    events += [event("gemm", 100 * i + 1, 99.5, tid=7, **work) for i in range(5)]
    assert "The device is busy throughout" in analyze_trace(written(tmp_path, events)).explain()


def test_gzip_array_form_and_odd_names(tmp_path: Path) -> None:
    events = [event(SINGLE, 100 * i, 20) for i in range(4)]
    events.insert(1, {"ph": "M", "name": 'quote " and \\ and { [ ] }', "args": {"labels": "traceEvents"}})
    plain = analyze_trace(written(tmp_path, events)).phases
    zipped = tmp_path / "trace.json.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "trace.json").read_bytes()))
    (tmp_path / "array.json").write_text(json.dumps(events, indent=3))
    assert analyze_trace(zipped).phases == plain
    assert analyze_trace(tmp_path / "array.json").phases == plain
    hidden = zipped.rename(tmp_path / "no_suffix")  # told by content
    assert analyze_trace(hidden).phases == plain


def test_large_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    op = json.dumps(
        event("aten::convolution", 0.1, 0.1, cat="cpu_op", args={"External id": 1, "Fwd thread id": 0})
    )
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "deviceProperties": [{"id": 0}], "traceEvents": [\n')
        for i in range(2000):
            file.write(json.dumps(event(MULTI, 100 * i, 25)) + ",\n" + f"{op},\n" * 100)
        file.write(json.dumps(event(MULTI, 200_000, 25)) + '], "traceName": "x"}')
    assert path.stat().st_size > 30e6
    code = (
        "import resource, sys; from cleval_tm.workers import analyze_trace;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "waits = analyze_trace(sys.argv[1]).phases['loop'];"
        "print(waits.steps, round(waits.wait_share, 6), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before);"
        "print(*(name for name in ('torch', 'numpy', 'numba', 'matplotlib') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    figures, heavy = done.stdout.splitlines()
    steps, share, grown = figures.split()
    assert (steps, share) == ("2000", "0.25")
    assert int(grown) < 15_000  # KiB; the file has 30 MB
    assert heavy == ""


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_off_is_an_error(tmp_path: Path, cut: float, zipped: bool) -> None:
    data = written(tmp_path, [event(SINGLE, 100 * i, 20) for i in range(50)]).read_bytes()
    data = gzip.compress(data) if zipped else data
    path = tmp_path / "cut.json"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match=r"cut\.json.*cut off"):
        analyze_trace(path)


@pytest.mark.parametrize("content", ["", "   ", "no json", '{"a": 1}', '{"traceEvents": 3}', "[1, 2", "3"])
def test_no_trace_at_all(tmp_path: Path, content: str) -> None:
    path = tmp_path / "no.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"no\.json"):
        analyze_trace(path)


def test_no_fetches_says_what_to_switch_on(tmp_path: Path) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        torch.ones(3) @ torch.ones(3)
    prof.export_chrome_trace(str(tmp_path / "t.json"))
    with pytest.raises(
        ValueError, match=r"none of its \d+ events is one.*StepTraceCallback.*PyTorchProfiler.*CPU"
    ):
        analyze_trace(tmp_path / "t.json")


def test_one_fetch_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two fetches in a row, but it holds 1 in all"):
        analyze_trace(written(tmp_path, [event(SINGLE, 0, 20)]))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        analyze_trace(tmp_path / "none.json")


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    data: dict[str, Any] = {
        "schemaVersion": 123456,
        "deviceProperties": [{"name": '한 "x" [{'}],
        "traceEvents": [],
    }
    data["traceEvents"] = [
        event(SINGLE, 100 * i, 20, args={"nested": {"list": [1.5, "}"]}}) for i in range(9)
    ]
    path = tmp_path / "trace.json"
    path.write_text(
        json.dumps({**data, "after": -12.5e3, "last": None}, ensure_ascii=False), encoding="utf-8"
    )
    monkeypatch.setattr("cleval_tm.workers.chrome._CHUNK", chunk)
    assert list(read_events(path)) == data["traceEvents"]


def test_read_events_of_an_empty_trace(tmp_path: Path) -> None:
    assert list(read_events(written(tmp_path, []))) == []


def test_percentiles_and_shares_of_spans() -> None:
    waits = [Span(i, i + 0.1 * (i + 1), "train", 0.1 * (i + 1)) for i in range(5)]
    figures = summarize_waits(waits)["train"]
    assert figures.wait_p95 == pytest.approx(0.485)
    assert figures.wait_share == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / (4.5 - 0.1))


def test_to_dict_is_plain_and_plot_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    events = [event(TRAIN_NEXT, 100 * i, 30) for i in range(6)]
    events += [event("[pl][profile]run_training_batch", 100 * i + 31, 60) for i in range(6)]
    analysis = analyze_trace(written(tmp_path, events))
    assert json.loads(json.dumps(analysis.to_dict()))["phases"]["train"]["steps"] == 5
    axes = analysis.plot()
    bars = [collection for collection in axes.collections if len(collection.get_paths()) == 6]
    assert len(bars) == 2  # waits and steps
    (line,) = axes.figure.axes[1].get_lines()
    assert list(line.get_ydata()) == pytest.approx([30.0] * 6)
    axes.figure.savefig(tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 5000
    own = axes.figure.add_subplot(3, 1, 3)
    assert analysis.plot(own) is own
