"""A stretch of training steps under torch.profiler that ends in one trace file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

ENOUGH = 3
"""Steps that make a trace worth keeping: the first fetch has no end of another before it to count from."""


class ProfileWindow:
    """Profiles ``warmup`` steps without and ``active`` steps with recording, from the moment it is made.

    Args:
        phase: What is profiled: ``"train"``, ``"val"``...
        path_of: Names the file, once the window is over, for the phase.
        warmup: Steps without recording.
        active: Steps with.
        kwargs: Further keyword arguments for ``torch.profiler.profile``.
    """

    def __init__(
        self, phase: str, path_of: Callable[[str], Path], warmup: int, active: int, kwargs: dict[str, Any]
    ) -> None:
        self.phase = phase
        self.saved = False
        self._path_of, self._left = path_of, warmup + active
        self._recorded, self._enough = -warmup, min(active, ENOUGH)
        self._labels: dict[str, record_function] = {}
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*warmup.*")  # a window of a very short run has none
            when = schedule(wait=0, warmup=warmup, active=active, repeat=1)
        self._profile = profile(
            **{"activities": activities, **kwargs, "schedule": when, "on_trace_ready": self._save}
        )
        self._profile.start()

    def enter(self, action: str, label: str) -> None:
        self._labels[action] = record_function(label)
        self._labels[action].__enter__()  # type: ignore[no-untyped-call]

    def leave(self, action: str) -> None:
        label = self._labels.pop(action, None)
        if label is not None:
            label.__exit__(None, None, None)

    def step(self) -> bool:
        """Ends a step; True where it was the window's last."""
        self._recorded += 1
        self._left -= 1
        self._profile.step()
        return self._left == 0

    def close(self) -> None:
        for action in reversed(list(self._labels)):  # the innermost first
            self.leave(action)
        self._profile.stop()

    def _save(self, prof: profile) -> None:
        if self._recorded < self._enough:  # ended early
            return
        path = self._path_of(self.phase)
        partial = path.with_name(f".partial.{path.name}")  # its ending tells torch whether to compress
        try:
            prof.export_chrome_trace(str(partial))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        self.saved = True
