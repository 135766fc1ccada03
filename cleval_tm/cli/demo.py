"""``cleval-tm demo``: a look at everything on a machine that has no data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cleval_tm.cli import options as o
from cleval_tm.cli.console import plain_errors, remark, say


def command(
    images: Annotated[int, typer.Option(min=1, help="Documents to generate.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other documents.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep them as gt.zip and res.zip, to try `evaluate` on."),
    ] = None,
    threads: o.Threads = 1,
) -> None:
    """Generate documents and a detector's output, and evaluate them. No file, no network."""
    with plain_errors():
        from cleval_tm.cli.compiling import announcing_compilation, compile_ahead
        from cleval_tm.cli.outputs import check_outputs, write_whole
        from cleval_tm.cli.tables import outcome_table, report
        from cleval_tm.demo import as_zip, make_documents

        files = {} if save is None else {save / "gt.zip": "gt_", save / "res.zip": "res_"}
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            check_outputs(files, [])
        preds, target = make_documents(images, seed)
        say(f"{images} generated documents in nine scripts (seed {seed}), and what a detector may find")
        from cleval_tm.evaluation import evaluate

        with announcing_compilation():  # compiled or loaded here, they are no part of the time below
            compile_ahead()
            evaluate(preds[:1], target[:1]).match(0)
        start = time.perf_counter()
        evaluation = evaluate(preds, target, num_threads=threads, progress=True)
        seconds = time.perf_counter() - start
        say(*report(evaluation, f"{seconds:.3f} s, {1000 * seconds / images:.2f} ms an image"))
        say("", outcome_table(evaluation))
        write_whole(
            {path: as_zip(side, files[path]) for path, side in zip(files, (target, preds), strict=False)}
        )
        for path in files:
            remark(f"wrote {path}", "")
        if files:
            gt, res = files
            say(f"Now try: cleval-tm evaluate -g {gt} -s {res}")
