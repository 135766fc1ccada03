"""What the commands say: results on stdout, the rest on stderr, errors without a traceback."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer


def is_main_process() -> bool:
    """Whether this process prints and writes: under ``torchrun`` only the one of rank 0."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def say(*lines: Any) -> None:
    """Prints results (text without markup, or something of rich) on stdout."""
    if not is_main_process():
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def remark(line: str, kind: str = "note") -> None:
    """Prints one line on stderr that is no result."""
    if is_main_process():
        typer.echo(f"{kind}: {line}" if kind else line, err=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of the user's input end the command with one message; warnings are one line each.

    With ``CLEVAL_TM_DEBUG=1`` in the environment the traceback is shown.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = _show_warning
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
            if os.environ.get("CLEVAL_TM_DEBUG"):
                raise
            rank = "" if is_main_process() else f"rank {os.environ['RANK']}: "
            typer.echo(f"{rank}error: {_message(error)}", err=True)
            raise typer.Exit(1) from error


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    remark(str(message), "warning")
