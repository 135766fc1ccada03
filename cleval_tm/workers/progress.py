"""A progress bar for a search whose end is an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cleval_tm.workers.search import Progress


@contextmanager
def shown_progress(wanted: bool, title: str) -> Iterator[Progress | None]:
    """A bar on standard error while the block runs.

    Args:
        wanted: Whether to show one at all.
        title: What stands before it.

    Yields:
        To be called with what comes next, the seconds gone and the estimated seconds left; None if not
        wanted.
    """
    if not wanted:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as bar:
        task = bar.add_task(title, total=None, left="")

        def show(what: str, gone: float, left: float) -> None:
            text = f"about {int(left) // 60}:{int(left) % 60:02} left" if left else ""
            total = gone + left if left else None
            bar.update(task, description=f"{title}: {what}", completed=gone, total=total, left=text)

        yield show
