"""The commands `cleval-tm workers sweep`, `analyze` and `apply`, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("ruamel.yaml")

from cleval_tm.cli.console import say
from cleval_tm.cli.workers import _sweep_table, app
from cleval_tm.workers import WorkerSweep
from cleval_tm.workers.result import WorkerResult

FETCH = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
CONFIG = """\
train_dataloader:
  num_workers: 12  # by guess
  persistent_workers: true
val_dataloader:
  num_workers: 12
"""
LOADERS = """\
import time
import torch
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        time.sleep(0.005)
        return torch.zeros(2)

def make_loader():
    return DataLoader(Slow(), batch_size=4)

def step(batch):
    time.sleep(0.002)
"""


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=100)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "default.yaml"
    path.write_text(CONFIG)
    return path


def saved(tmp_path: Path, suggestion: int, loader: str | None, **more: Any) -> Path:
    slow = WorkerResult(99, times=(0.2, 0.2, 0.2))
    row = WorkerResult(suggestion, times=(0.1, 0.1, 0.1), wait_share=0.1)
    path = tmp_path / "sweep.json"
    WorkerSweep(results=(row, slow), current=99, loader=loader, **more).to_json(path)
    return path


def trace(folder: Path, name: str = "trace_100.json", wait_ms: int = 60) -> Path:
    event = {"ph": "X", "pid": 1, "tid": 1, "name": FETCH, "dur": wait_ms * 1e3}
    path = folder / name
    path.write_text(json.dumps({"traceEvents": [{**event, "ts": i * 100e3} for i in range(10)]}))
    return path


# apply


def test_apply_shows_the_diff_and_writes(tmp_path: Path, config: Path) -> None:
    result = run("apply", config, "--from", saved(tmp_path, 4, "dataloaders.train_dataloader"))
    assert result.exit_code == 0, result.output
    assert "-  num_workers: 12  # by guess" in result.stdout
    assert "+  num_workers: 4  # by guess" in result.stdout
    assert "train_dataloader.num_workers is now 4" in result.stdout
    assert config.read_text() == CONFIG.replace("12  # by guess", "4  # by guess")
    again = run("apply", config, "--from", tmp_path / "sweep.json")
    assert again.exit_code == 0
    assert again.stdout == f"{config}: train_dataloader.num_workers is 4 already\n"


def test_apply_dry_run(tmp_path: Path, config: Path) -> None:
    result = run("apply", config, "--from", saved(tmp_path, 4, "train_dataloader"), "--dry-run")
    assert "+  num_workers: 4" in result.stdout
    assert config.read_text() == CONFIG


def test_apply_says_what_else_it_set(tmp_path: Path, config: Path) -> None:
    result = run("apply", config, "--from", saved(tmp_path, 0, None), "--loader", "train_dataloader")
    assert "set from true to false: DataLoader refuses it with 0 workers" in result.stderr
    assert config.read_text() == CONFIG.replace("12  #", "0  #").replace("true", "false")


def test_apply_a_number(config: Path) -> None:
    assert run("apply", config, "-n", 3, "--loader", "val_dataloader").exit_code == 0
    assert config.read_text().endswith("val_dataloader:\n  num_workers: 3\n")


def test_apply_writes_settings_that_the_file_has_and_names_the_others(tmp_path: Path, config: Path) -> None:
    base = WorkerResult(2, times=(0.1, 0.1, 0.1), prefetch_factor=2, persistent_workers=True)
    better = WorkerResult(2, times=(0.05, 0.05, 0.05), prefetch_factor=8, persistent_workers=False)
    path = tmp_path / "sweep.json"
    WorkerSweep(results=(base,), current=2, loader="train_dataloader", variants=(better,)).to_json(path)
    result = run("apply", config, "--from", path)
    assert result.exit_code == 0, result.output
    assert "  num_workers: 2  # by guess\n  persistent_workers: false\n" in config.read_text()
    assert "the sweep also found prefetch_factor: 8, for which" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "2"], "pass --loader"),
        (
            ["-n", "2", "--loader", "test_dataloader"],
            "to have test_dataloader.num_workers but it has train_dataloader",
        ),
        ([], "either --from SWEEP.json or --num-workers"),
        (["--from", "none.json"], "none.json: No such file or directory"),
    ],
)
def test_apply_errors(config: Path, options: list[str], message: str) -> None:
    result = run("apply", config, *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert config.read_text() == CONFIG


def test_apply_to_an_interpolation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("num_workers: ${n}\n")
    result = run("apply", path, "-n", 2)
    assert result.exit_code == 1
    assert "interpolation ${n}" in result.stderr
    assert path.read_text() == "num_workers: ${n}\n"


# analyze


def test_analyze_traces(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    out, drawing = tmp_path / "out.json", tmp_path / "out.png"
    result = run("analyze", trace(tmp_path), "--json", out, "--plot", drawing)
    assert result.exit_code == 0, result.output
    assert "waiting for data is 60% of a step" in result.stdout
    assert json.loads(out.read_text())[0]["phases"]["loop"]["steps"] == 9
    assert drawing.stat().st_size > 5000
    several = run("analyze", tmp_path)  # a folder of traces
    assert "trace_100.json" in several.stdout


def test_analyze_a_multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number, wait in enumerate((60, 10)):
        folder = tmp_path / "run" / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- loaders.train.num_workers={2 * number}\n")
        for part in range(3):
            trace(folder, f"trace_{part}.json", wait)
    result = run("analyze", tmp_path / "run", "--json", tmp_path / "s.json", "--current", 2)
    assert result.exit_code == 0, result.output
    assert "loaders.train, one run each" in result.stdout
    assert "now" in result.stdout
    assert "suggested" in result.stdout
    sweep = WorkerSweep.from_json(tmp_path / "s.json")
    assert (sweep.single_run, sweep.loader, sweep.current) == (True, "loaders.train", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json"], "none.json: No such file"),
        (["."], "Expected `.` to hold jobs of a Hydra multirun"),
        ([".", "--where", "a"], "--where to be KEY=VALUE but got 'a'"),
        ([".", "--json", "no/where/out.json"], "into a folder that exists"),
    ],
)
def test_analyze_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("analyze", *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


# sweep


def test_sweep_measures_a_users_own_loader(tmp_path: Path) -> None:
    (tmp_path / "my_data.py").write_text(LOADERS)
    root = str(Path(__file__).parents[1])
    command = [
        sys.executable,
        "-m",
        "cleval_tm",
        "workers",
        "sweep",
        "my_data:make_loader",
        "--step",
        "my_data:step",
    ]
    command += ["--candidates", "2", "--seconds", "0.2", "--json", "sweep.json"]
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    sweep = WorkerSweep.from_json(tmp_path / "sweep.json")
    assert sweep.explain() in done.stdout
    assert [row.num_workers for row in sweep.results] == [0, 2]
    assert all(len(row.times) >= 3 for row in sweep.results)


def test_the_table_of_a_sweep_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    base: dict[str, Any] = {"wait_share": 0.4, "cpu_use": 1.0, "startup_s": 10.25, "steps": 1000}
    two = WorkerResult(2, times=(0.1234, 0.1234), prefetch_factor=2, persistent_workers=False, **base)
    with_more = [
        WorkerResult(2, times=(0.12, 0.12), prefetch_factor=4, persistent_workers=False, **base),
        WorkerResult(2, times=(0.1, 0.1), prefetch_factor=2, persistent_workers=True, **base),
    ]
    say(_sweep_table(WorkerSweep(results=(two,), variants=tuple(with_more), current=4)))
    rows = [line.strip().split("  ")[-1] for line in capsys.readouterr().out.splitlines() if " 1000 " in line]
    assert rows == ["suggested", "prefetch 4", "persistent"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make_loader"], "Expected MODULE:NAME"),
        (["no_such_module_here:x"], "to name a module that can be imported"),
        (["json:nothing"], "but 'json' has no 'nothing'"),
        (["json:loads", "--candidates", "0,two"], "--candidates to be numbers such as 0,2,4"),
    ],
)
def test_sweep_errors(arguments: list[str], message: str) -> None:
    result = run("sweep", *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from cleval_tm.cli.workers import app\n"
        "for command in ([], ['sweep'], ['analyze'], ['apply']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "print(*(m for m in ('torch', 'numba', 'lightning', 'hydra', 'matplotlib', 'ruamel') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
