"""The one slow thing: the first run compiles the kernels. Says so, and does it in two processes at once."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cleval_tm.cli.console import remark


@contextmanager
def announcing_compilation() -> Iterator[None]:
    """Says so, once, as soon as a kernel is compiled here rather than read from the disk."""
    from numba.core import event

    class Announce(event.Listener):  # type: ignore[misc]
        told = False

        def on_start(self, event: Any) -> None:
            if not self.told:
                self.told = True
                remark("compiling the kernels, which takes some seconds the first time", "")

        def on_end(self, event: Any) -> None:
            pass

    with event.install_listener("numba:compile", Announce()):
        yield


def compile_ahead() -> None:
    """Compile what an evaluation asks for, unless it is on the disk: encoding here, counting in another process.

    Where the other process fails, or nothing can be kept on the disk, kernels are compiled when first called.
    """
    from cleval_tm.encode import encode
    from cleval_tm.evaluation import candidates_of
    from cleval_tm.kernels._jit import is_missing
    from cleval_tm.kernels.image import count_images
    from cleval_tm.rules import CLEvalRules

    if not is_missing(count_images):
        return
    command = "from cleval_tm.cli.compiling import compile_counting; compile_counting()"
    sooner = {"NUMBA_OPT": "2", **os.environ}  # than with 3, the default; the kernel runs as fast
    with (
        _without_collections(),
        subprocess.Popen(
            [sys.executable, "-O", "-c", command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=sooner,
        ),
    ):
        image = {"boxes": [[0, 0, 40, 10], [0, 20, 40, 30]], "texts": ["###", "word"]}
        encoded, gt = encode([image], [image], CLEvalRules.v2023(), e2e=True, scale_bins=None)
        candidates_of(encoded, gt, 0, 1, whole=False)


def compile_counting() -> None:
    """Compile the kernel that counts images, by counting none."""
    import numpy as np

    from cleval_tm.counts import COUNTS
    from cleval_tm.encode import kernel_options
    from cleval_tm.kernels.geometry import EDGE_COLUMNS
    from cleval_tm.kernels.image import NO_STORY, count_images
    from cleval_tm.kernels.matching import Detections, Words
    from cleval_tm.kernels.measure import ShapeArrays
    from cleval_tm.rules import CLEvalRules

    none, start = np.empty(0, np.int64), np.zeros(1, np.int64)
    grid, views = np.empty((0, 0), np.int64), np.empty((1, 0), np.bool_)
    points, floats, small = np.empty((0, 2)), np.empty(0), np.empty(0, np.uint8)
    letters = np.empty(0, np.int32)
    bounds, edges = np.empty((0, 4)), np.empty((0, EDGE_COLUMNS))
    shapes = ShapeArrays(
        start, points, points, start, small, small, bounds, floats, floats, none, edges, start
    )
    centres = np.empty((2, 0))
    words = Words(shapes, start, centres, letters, start, none, views, views[0], grid, grid)
    detections = Detections(shapes, letters, start, none)
    options = kernel_options(CLEvalRules.v2023(), e2e=True)
    table = np.empty((0, 1, len(COUNTS)), np.int64)
    with _without_collections():
        count_images(words, none, detections, start, none, 0, 0, options, table, NO_STORY)


@contextmanager
def _without_collections() -> Iterator[None]:
    """The compiler makes millions of small objects, which the garbage collector looks through again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
