"""Tells the user about the one slow thing: the first run compiles the kernels."""

from __future__ import annotations

from cleval_tm.cli.console import remark


def announce_compilation() -> None:
    """Says so if no machine code of these kernels is on disk yet."""
    from cleval_tm.kernels import _jit

    folder = _jit.cache_folder()
    if folder is None:
        remark("compiling the kernels, some seconds", "")
    elif next(folder.glob(f"*.count_images-{_jit.source_stamp()[:12]}*.nbc"), None) is None:
        remark(f"compiling the kernels, some seconds; later runs find them in {folder}", "")
