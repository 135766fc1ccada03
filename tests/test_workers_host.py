"""The tutorial on the example project, shortened: instrument, sweep by a real Hydra multirun, analyse, apply."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("hydra", "lightning", "psutil", "ruamel.yaml"):
    pytest.importorskip(needed)
pytest.importorskip("PIL", minversion="10.1", reason="draws text of any size since Pillow 10.1")

from cleval_tm.workers import WorkerSweep, analyze_trace  # noqa: E402

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "workers-tutorial.md"
SWEEP = (
    "python runners/train.py --multirun trainer.max_steps=200 data.batch_size=8 "
    "dataloaders.train_dataloader.num_workers=0,2,4,8,12"
)
SHORTER = {
    "trainer.max_steps=200": "trainer.max_steps=36",
    "data.batch_size=8": "data.batch_size=2",
    "num_workers=0,2,4,8,12": "num_workers=0,2",
}
SMALL = "data.receipts.train_images=24 data.receipts.val_images=4 callbacks.step_trace.every_n_steps=18"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, swept: two real trainings in one multirun."""
    folder = tmp_path_factory.mktemp("host") / "ocr_host"
    shutil.copytree(ROOT / "examples" / "ocr_host", folder, ignore=_made_by_runs)
    command = SWEEP
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    run(f"{command} {SMALL}", folder)
    return folder


def _made_by_runs(folder: str, names: list[str]) -> set[str]:
    here = Path(folder) == ROOT / "examples" / "ocr_host"
    return {"data", "multirun", "outputs"} if here else {name for name in names if name == "__pycache__"}


def run(command: str, folder: Path) -> str:
    """Runs a command of the tutorial with this interpreter; what it printed."""
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "cleval-tm":
        words[:1] = [sys.executable, "-m", "cleval_tm"]
    words = [
        match for word in words for match in (sorted(map(str, folder.glob(word))) if "*" in word else [word])
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "COLUMNS": "100"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def jobs(host: Path) -> list[Path]:
    (multirun,) = host.glob("multirun/*/*")
    return sorted(path for path in multirun.iterdir() if path.is_dir())


def test_each_job_left_a_record_traces_and_its_settings(host: Path) -> None:
    for folder, workers in zip(jobs(host), (0, 2), strict=True):
        names = {path.name for path in (folder / "step_trace").iterdir()}
        assert {"settings.json", "steps.jsonl", "trace_18.json", "trace_36.json"} <= names
        settings = json.loads((folder / "step_trace" / "settings.json").read_text())
        (train,) = settings["loaders"]["train"]
        assert (train["num_workers"], train["batch_size"], train["batches"]) == (workers, 2, 12)
        trace = analyze_trace(folder / "step_trace" / "trace_18.json")
        assert trace.source == "callback"
        assert 0 < trace.phases["train"].wait_share < 1


def test_decoding_and_augmenting_keeps_steps_waiting_without_workers(host: Path) -> None:
    folder = jobs(host)[0]
    waits = analyze_trace(folder / "step_trace" / "trace_36.json").phases["train"]
    assert waits.wait_share > 0.15


def test_the_tutorials_commands_analyse_and_apply(host: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ocr_host"
    shutil.copytree(host, folder)
    analyze, preview, apply = [command for command in commands() if command.startswith("cleval-tm ")][-3:]
    explained = run(analyze, folder)
    sweep = WorkerSweep.from_json(folder / "sweep.json")
    assert sweep.explain() in explained
    assert sweep.loader == "dataloaders.train_dataloader"
    assert [row.num_workers for row in sweep.results] == [0, 2]
    assert all(row.ok for row in sweep.results), [row.failures for row in sweep.results]
    assert all(row.cpu_use is not None and row.cpu_use > 0 for row in sweep.results)
    config = folder / "configs" / "dataloaders" / "default.yaml"
    before = config.read_text()
    diff = run(preview, folder)
    assert config.read_text() == before
    changed = [line for line in diff.splitlines() if re.match(r"[-+] ", line)]
    assert changed == ["-  num_workers: 12", f"+  num_workers: {sweep.suggestion()}"]
    run(apply, folder)
    assert config.read_text() == before.replace("num_workers: 12", f"num_workers: {sweep.suggestion()}")


def test_the_projects_own_value_is_known(host: Path) -> None:
    (multirun,) = host.glob("multirun/*/*")
    run(f"cleval-tm workers analyze {multirun} --json {host / 'current.json'}", host)
    assert WorkerSweep.from_json(host / "current.json").current == 12


def commands() -> list[str]:
    """The commands of the tutorial's shell blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


def test_with_uv_in_front(host: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path / "ocr_host"
    shutil.copytree(host, folder, ignore=shutil.ignore_patterns("multirun"))
    words = [
        uv,
        "run",
        *shlex.split(SWEEP.replace("=200", "=2").replace("0,2,4,8,12", "0")),
        *SMALL.split()[:2],
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UV_NO_PROJECT": "1", "VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(folder.glob("multirun/*/*/0/step_trace/steps.jsonl"))) == 1


def test_the_tutorial_shows_these_commands() -> None:
    assert SWEEP in commands()
    assert [command.split()[2] for command in commands() if command.startswith("cleval-tm workers")][-3:] == [
        "analyze",
        "apply",
        "apply",
    ]
