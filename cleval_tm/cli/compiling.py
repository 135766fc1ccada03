"""Tells the user about the one slow thing: the first run compiles the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cleval_tm.cli.console import remark


@contextmanager
def announcing_compilation() -> Iterator[None]:
    """Says so, once, as soon as a kernel is compiled rather than read from the disk."""
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
