"""Compiled kernels on disk: never stale, never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cleval_tm

PACKAGE = Path(cleval_tm.__file__).parent
# A kernel that compiles fast, and a function that it calls from another file.
USE = """
import numpy as np
from cleval_tm.kernels.measure import shorter_sides
points = np.array([(0., 0.), (30., 0.), (30., 10.), (0., 10.)])
print(float(shorter_sides(points, np.array([0, 4]))[0]), sum(shorter_sides.stats.cache_hits.values()))
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package that has not compiled anything yet."""
    shutil.copytree(PACKAGE, tmp_path / "site" / "cleval_tm", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def run(site, code=USE, **environment):
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(site), **environment},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def test_an_edit_in_a_called_file_reaches_every_kernel(copy):
    assert run(copy)[0] == ["10.0", "0"]
    assert run(copy)[0] == ["10.0", "1"]
    geometry = copy / "cleval_tm" / "kernels" / "geometry.py"
    before = geometry.read_text()
    after = before.replace("best = (u1 - u0, v1 - v0,", "best = (u1 - u0, 7.0 * (v1 - v0),")
    assert after != before
    geometry.write_text(after)
    assert run(copy)[0] == ["30.0", "0"]  # 30 x 70: the other side is the shorter one now
    geometry.write_text(before)
    assert run(copy)[0][0] == "10.0"


def test_a_process_that_loaded_a_kernel_can_compile_others(copy):
    compile_one = """
import numba
print(numba.njit(lambda numbers: np.sort(numbers)[-1] + len("two"))(points[:, 0]))
"""
    assert run(copy)[0] == ["10.0", "0"]
    assert run(copy, USE + compile_one)[0] == ["10.0", "1", "33.0"]


def test_a_read_only_package_uses_the_users_cache(copy, tmp_path):
    blocked = copy / "cleval_tm" / "kernels" / "__pycache__"
    blocked.write_text("a file where the folder would be: nobody, not even root, can write into it")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(copy, **environment)[0] == ["10.0", "0"]
    assert run(copy, **environment)[0] == ["10.0", "1"]
    assert list((tmp_path / "cache" / "cleval_tm").glob("*.nbc"))


def test_without_any_writable_place_it_compiles_and_says_so_once(copy, tmp_path):
    (copy / "cleval_tm" / "kernels" / "__pycache__").write_text("")
    (tmp_path / "no-folder").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "no-folder"), "PYTHONDONTWRITEBYTECODE": "1"}
    printed, errors = run(copy, **environment)
    assert printed == ["10.0", "0"]
    assert errors.count("compiles its kernels anew") == 1
    assert "NUMBA_CACHE_DIR" in errors


def test_processes_that_start_at_once_on_an_empty_cache_agree(copy):
    command = [sys.executable, "-c", USE]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    environment.pop("NUMBA_CACHE_DIR", None)
    running = [
        subprocess.Popen(command, env=environment, cwd=copy, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    assert {process.communicate()[0].split()[0] for process in running} == {"10.0"}
    assert run(copy)[0] == ["10.0", "1"]


@pytest.mark.filterwarnings("ignore:.*left out, as rule set upstage does")
def test_each_kernel_has_one_signature():
    """Arrays of one dtype and layout reach each kernel, whatever the user hands in: each compiles once."""
    from cleval_tm import evaluate
    from cleval_tm.cli.compiling import compile_counting
    from cleval_tm.kernels.candidates import find_candidates
    from cleval_tm.kernels.characters import place_characters, pseudo_lengths, rectangle_aspects
    from cleval_tm.kernels.image import count_images
    from cleval_tm.kernels.letters import read_texts
    from cleval_tm.kernels.measure import (
        edges_of_rings,
        inspect_rings,
        measure_shapes,
        shorter_sides,
        snap_points,
    )
    from cleval_tm.kernels.remainders import take_out_words

    kernels = [
        read_texts,
        place_characters,
        pseudo_lengths,
        rectangle_aspects,
        count_images,
        find_candidates,
        edges_of_rings,
        inspect_rings,
        measure_shapes,
        snap_points,
        take_out_words,
        shorter_sides,
    ]
    if not hasattr(count_images, "signatures"):
        pytest.skip("NUMBA_DISABLE_JIT is set: nothing is compiled")
    compile_counting()  # what another process compiles on a first run is what an evaluation asks for
    ring = [(0, 0), (9, 0), (9, 9), (4, 12), (0, 9)]
    kinds = [
        {"boxes": np.array([[0, 0, 9, 9]], np.int32), "texts": ["###"]},
        {"boxes": [[0.5, 0, 9, 9]], "texts": ["ab"]},
        {"polygons": np.array([ring], np.float32)[:, ::-1], "texts": ["ab"]},
        {"polygons": [ring, ring[:3]], "texts": ["ab", "###"]},
        {"polygons": [], "texts": []},
    ]
    for rules in ("v2023", "v2020", "upstage"):
        for e2e in (True, False):
            for target in kinds:
                sized = {**target, "image_size": (20, 20)}
                evaluate(kinds, [sized] * len(kinds), rules, e2e=e2e, scale_bins=(0, 0.3, 1))
                evaluate([kinds[0]], [sized], rules, e2e=e2e).match(0)
                evaluate([], [], rules, e2e=e2e)
    assert {kernel.py_func.__name__: len(kernel.signatures) for kernel in kernels} == {
        kernel.py_func.__name__: 1 for kernel in kernels
    }


def test_kernels_on_the_disk_are_not_compiled_ahead(monkeypatch):
    from cleval_tm import evaluate
    from cleval_tm.cli import compiling
    from cleval_tm.kernels._jit import is_missing
    from cleval_tm.kernels.image import count_images

    if not hasattr(count_images, "signatures"):
        pytest.skip("NUMBA_DISABLE_JIT is set: nothing is compiled")
    evaluate([{"boxes": [], "texts": []}], [{"boxes": [], "texts": []}])
    assert not is_missing(count_images)
    monkeypatch.setattr(compiling.subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    compiling.compile_ahead()
