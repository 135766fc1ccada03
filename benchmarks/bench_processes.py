"""Whole processes: the first run after installation, later runs, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import corpora

MEMORY = """
import json, resource, tracemalloc
import cleval_tm.io, cleval_tm.metric
from benchmarks import corpora
preds, targets = corpora.korean_documents()
metric = cleval_tm.metric.CLEvalMetric()
metric.update(preds[:1], targets[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
for start in range(0, len(preds), 16):
    metric.update(preds[start:start + 16], targets[start:start + 16])
metric.compute()
traced = tracemalloc.get_traced_memory()[1]
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, traced]))
"""


def run(*command, **environment):
    """Seconds that a process took, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=600
    )
    return time.perf_counter() - start, done.stdout


def evaluate_command(module):
    place = corpora.folder()
    files = ("-g", str(place / "gt_eval_doc_v1_kr.zip"), "-s", str(place / "res_eval_doc_v1_kr.zip"))
    return (sys.executable, "-m", module, "evaluate", *files)


@pytest.fixture
def needs_files():
    if corpora.folder() is None:
        pytest.skip("the published files are not here: set CLEVAL_TM_DATA to their folder")


def test_first_run(benchmark, note, tmp_path):
    demo = (sys.executable, "-m", "cleval_tm", "demo")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    seconds, _ = run(*demo, **cache)
    benchmark.pedantic(run, args=demo, kwargs=cache, rounds=5)
    note("cleval-tm demo: the first run compiles, later ones do not", first_run_seconds=seconds)


@pytest.mark.usefixtures("needs_files")
def test_command_line(benchmark, note):
    run(*evaluate_command("cleval_tm"))
    benchmark.pedantic(run, args=evaluate_command("cleval_tm"), rounds=7)
    note("cleval-tm evaluate, whole process", "Korean documents by the command line, whole process")


@pytest.mark.usefixtures("needs_files", "needs_official")
@pytest.mark.timeout(1200)
def test_command_line_of_the_official_package(benchmark, note, tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "cleval")
    files = evaluate_command("cleval")[4:]
    command = (script, *files, "--E2E", "--BOX_TYPE", "QUAD", "-o", str(tmp_path))
    benchmark.pedantic(run, args=command, rounds=2)
    note("cleval 0.1.1, whole process", "Korean documents by the command line, whole process", role="peer")


@pytest.mark.usefixtures("needs_files")
def test_memory(benchmark, note):
    _, printed = run(sys.executable, "-c", MEMORY, PYTHONPATH=os.pathsep.join(sys.path))
    resident, traced = json.loads(printed)
    benchmark.pedantic(lambda: None, rounds=1)
    note(
        "100 Korean documents through CLEvalMetric, memory above the imports",
        peak_resident_kib=resident,
        peak_traced_kib=traced // 1024,
    )
