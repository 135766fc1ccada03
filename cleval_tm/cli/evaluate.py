"""``cleval-tm evaluate``: two files in, scores out."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleval_tm.cli import options as o
from cleval_tm.cli.console import is_main_process, plain_errors, remark, say

if TYPE_CHECKING:
    from cleval_tm.cli.sides import Sides
    from cleval_tm.evaluation import Evaluation
    from cleval_tm.rules import CLEvalRules

_LONG = 200  # images from which on a progress bar is worth its import
_TEXTLESS = (o.RuleSet.upstage,)
_DEFAULT_SCALE_BINS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.1, 0.5, 1.0)


def command(
    gt: o.GtPath,
    result: Annotated[
        Path,
        typer.Option("--result", "-s", "--submission", help="What the detector found, in any such form."),
    ],
    box_type: o.BoxTypeOption = None,
    e2e: Annotated[
        bool | None,
        typer.Option(
            "--e2e/--no-e2e",
            help="Score the texts too. Found out from the files if not given.",
            show_default=False,
        ),
    ] = None,
    confidence: o.Confidence = False,
    file_format: o.Format = "auto",
    lenient: o.Lenient = False,
    max_unpacked_mb: o.MaxUnpacked = o.MAX_MB,
    rules: o.Rules = o.RuleSet.v2023,
    ap_constraint: Annotated[
        float | None,
        typer.Option(
            help="Least share of a detection that must lie in a word.",
            show_default="of the rule set",
            rich_help_panel=o.RULES,
        ),
    ] = None,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Compare texts in upper case.", rich_help_panel=o.RULES)
    ] = False,
    recall_weight: Annotated[
        float, typer.Option(min=0, help="Penalty per split in recall.", rich_help_panel=o.RULES)
    ] = 1.0,
    precision_weight: Annotated[
        float, typer.Option(min=0, help="Penalty per merge in precision.", rich_help_panel=o.RULES)
    ] = 1.0,
    vertical_aspect_ratio_thresh: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Quads whose width/height is below hold vertical text.",
            show_default="of the rule set",
            rich_help_panel=o.RULES,
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only the first so many detections of an image count.",
            show_default="of the rule set",
            rich_help_panel=o.RULES,
        ),
    ] = None,
    text_unit: Annotated[
        o.TextUnit,
        typer.Option(case_sensitive=False, help="What counts as one character.", rich_help_panel=o.RULES),
    ] = o.TextUnit.codepoint,
    normalization: Annotated[
        o.Normalization,
        typer.Option(
            case_sensitive=False, help="Unicode form that both texts take first.", rich_help_panel=o.RULES
        ),
    ] = o.Normalization.none,
    polygons_only: Annotated[
        bool | None,
        typer.Option(
            "--polygons-only/--with-texts",
            help="Leave all texts aside, and with them the ### of ignored words. On under upstage, whose "
            "original knows no texts.",
            show_default=False,
            rich_help_panel=o.RULES,
        ),
    ] = None,
    scale_bins: Annotated[
        str | None,
        typer.Option(
            metavar="default|EDGES",
            help="Scores by size of words too: edges such as 0,0.01,0.1,1 (shorter side of the word "
            "/ longer side of the image). Needs image sizes.",
            rich_help_panel=o.RULES,
        ),
    ] = None,
    image_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|WxH",
            help="CSV (image,width,height), JSON ({image: \\[width, height]}), or one size for all.",
            rich_help_panel=o.FILES,
        ),
    ] = None,
    threads: o.Threads = 1,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="PATH",
            help="Rules, scores and counts, with full precision; - for stdout.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    per_image: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="CSV: counts and scores of each image, worst first.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
) -> None:
    """Score a result against the ground truth.

    Both are a ZIP or a folder of text files (one an image), an annotation JSON, or a submission CSV.
    """
    with plain_errors():
        from cleval_tm.cli.outputs import check_outputs, write_whole
        from cleval_tm.cli.sides import read_sides, requests
        from cleval_tm.io.formats import Request

        start = time.perf_counter()
        to_stdout = str(json_path) == "-"
        outputs = [None if to_stdout else json_path, per_image]
        check_outputs(outputs, [gt, result])
        chosen = _rules(
            rules.value,
            ap_constraint=ap_constraint,
            vertical_aspect_ratio_thresh=vertical_aspect_ratio_thresh,
            max_detections=max_detections,
            case_sensitive=not ignore_case,
            recall_granularity_weight=recall_weight,
            precision_granularity_weight=precision_weight,
            text_unit=text_unit.value,
            normalization=None if normalization is o.Normalization.none else normalization.value,
        )
        bins = _scale_bins(scale_bins)
        request = Request(
            box_type=box_type.value if box_type else None,
            confidence=confidence,
            max_bytes=max_unpacked_mb * 2**20,
        )
        sides = read_sides(
            gt,
            result,
            requests(file_format, request),
            e2e=e2e,
            polygons_only=rules in _TEXTLESS and not e2e if polygons_only is None else polygons_only,
            lenient=lenient,
        )
        _set_sizes(sides, image_sizes, bins is not None)
        evaluation = score(sides, chosen, bins, threads)
        if evaluation is None or not is_main_process():
            return
        _report(evaluation, sides, time.perf_counter() - start, to_stdout=to_stdout)
        contents: dict[Path, str | bytes] = {}
        if json_path and not to_stdout:
            contents[json_path] = _json(evaluation, sides)
        if per_image:
            from cleval_tm.cli.tables import per_image_csv

            contents[per_image] = per_image_csv(evaluation)
        write_whole(contents)
        for path in contents:
            remark(f"wrote {path}", "")


def score(
    sides: Sides, rules: CLEvalRules, scale_bins: list[float] | None, threads: int
) -> Evaluation | None:
    """Counts and scores, by this process or by all that ``torchrun`` started.

    Returns:
        the evaluation, or ``None`` in a process that has nothing to print.
    """
    from cleval_tm.cli.compiling import announcing_compilation, compile_ahead
    from cleval_tm.distributed import evaluate_sharded, is_distributed
    from cleval_tm.evaluation import evaluate

    options: dict[str, Any] = {"e2e": sides.e2e, "scale_bins": scale_bins, "num_threads": threads}
    with announcing_compilation():
        if is_distributed():
            return evaluate_sharded(sides.preds, sides.target, rules, **options)
        compile_ahead()
        shown = sys.stderr.isatty() and len(sides.target) >= _LONG
        return evaluate(sides.preds, sides.target, rules, **options, progress=shown)


def _rules(name: str, **changes: Any) -> CLEvalRules:
    from cleval_tm.rules import CLEvalRules

    return CLEvalRules.named(name, **{key: value for key, value in changes.items() if value is not None})


def _scale_bins(given: str | None) -> list[float] | None:
    if given is None:
        return None
    if given == "default":
        return list(_DEFAULT_SCALE_BINS)
    try:
        edges = [float(edge) for edge in given.split(",")]
    except ValueError:
        edges = []
    if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(
            f"Expected --scale-bins to be `default` or rising edges such as 0,0.01,0.1,1 but got {given!r}"
        )
    return edges


def _set_sizes(sides: Sides, given: str | None, needed: bool) -> None:
    from cleval_tm.io.pairing import image_sizes, with_sizes

    if given is not None:
        with_sizes(sides.target, image_sizes(given))
    elif needed and any("image_size" not in image for image in sides.target):
        raise ValueError(
            "Expected --image-sizes with --scale-bins (a CSV, a JSON, or one size such as 1280x720)"
        )


def _report(evaluation: Evaluation, sides: Sides, seconds: float, *, to_stdout: bool) -> None:
    if to_stdout:
        typer.echo(_json(evaluation, sides), nl=False)
        return
    from cleval_tm.cli.tables import report

    say(*sides.notes, *report(evaluation, f"{seconds:.2f} s, {sides.seconds:.2f} of it reading"))


def _json(evaluation: Evaluation, sides: Sides) -> str:
    from cleval_tm.cli.tables import json_report

    return json_report(evaluation, sides)
