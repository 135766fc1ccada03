"""``cleval-tm validate``: what is odd about the files, before anyone trusts a score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleval_tm.cli import options as o
from cleval_tm.cli.console import plain_errors, say


def command(
    gt: o.GtPath,
    result: Annotated[
        Path | None,
        typer.Option("--result", "-s", "--submission", help="What the detector found, in any such form."),
    ] = None,
    box_type: o.BoxTypeOption = None,
    confidence: o.Confidence = False,
    file_format: o.Format = "auto",
    max_unpacked_mb: o.MaxUnpacked = o.MAX_MB,
    rules: o.Rules = o.RuleSet.v2023,
    show: Annotated[
        int, typer.Option(min=0, help="Examples to show of each finding.", rich_help_panel=o.OUTPUT)
    ] = 5,
) -> None:
    """Check ground truth (and a result): bad lines, odd shapes, duplicates, overlaps, and what they cost.

    Bad lines and unknown images make the exit code 1; the other findings do not.
    """
    with plain_errors():
        from cleval_tm.cli.findings import inspect
        from cleval_tm.io.formats import Request

        request = Request(
            box_type=box_type.value if box_type else None,
            confidence=confidence,
            max_bytes=max_unpacked_mb * 2**20,
        )
        lines, broken = inspect(gt, result, request, file_format, rules.value, show)
        say(*lines)
        if broken:
            raise typer.Exit(1)
