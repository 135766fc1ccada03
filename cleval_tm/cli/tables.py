"""An evaluation as a table for people, JSON for programs, and a CSV of images, worst first."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from cleval_tm._version import __version__
from cleval_tm.counts import COUNTS, bin_label, scale_bins_of, score_names, total_counts
from cleval_tm.rules import CLEvalRules

if TYPE_CHECKING:
    from cleval_tm.cli.sides import Sides
    from cleval_tm.evaluation import Evaluation

_KINDS = {"det": "detection", "e2e": "end-to-end"}


def report(evaluation: Evaluation, duration: str) -> list[Any]:
    """What the table says: scores, what went wrong, sizes, time, and whose rules made the figures."""
    totals = evaluation.totals()
    parts: list[Any] = ["", scores_table(evaluation)]
    if evaluation.scale_bins is not None:
        parts.append(scale_table(evaluation))
    parts += [
        faults_line(totals, evaluation.e2e),
        f"{totals['images']:,} images, {totals['chars_gt']:,} characters in {totals['words_gt']:,} words "
        f"({totals['ignored_gt']:,} ignored), {totals['words_det']:,} detections "
        f"({totals['ignored_det']:,} ignored); {duration}",
    ]
    if totals["irregular"]:
        parts.append(
            f"{totals['irregular']:,} irregular shapes were repaired; `cleval-tm validate` lists them"
        )
    return [*parts, rules_line(evaluation.rules)]


def scores_table(evaluation: Evaluation) -> Any:
    """Recall, precision and H-mean of the corpus, and their means over images."""
    from rich import box
    from rich.table import Table

    scores = evaluation.scores()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("recall", "precision", "H-mean"):
        table.add_column(name, justify="right")
    for prefix, suffix in (("", ""), ("mean_", ", image mean")):
        for kind, label in _KINDS.items():
            names = [f"{prefix}{kind}_{score}" for score in ("recall", "precision", "hmean")]
            if all(name in scores for name in names):
                table.add_row(label + suffix, *(f"{scores[name]:.4f}" for name in names))
    if "recognition_score" in scores:
        table.add_row("recognition score", "", "", f"{scores['recognition_score']:.4f}")
    return table


def scale_table(evaluation: Evaluation) -> Any:
    """Scores bin by bin: shorter side of the words over the longer side of the image."""
    from rich import box
    from rich.table import Table

    scores, bins = evaluation.scores(), scale_bins_of(evaluation.scale_bins or ())
    kinds = ("det", "e2e") if evaluation.e2e else ("det",)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("scale", no_wrap=True)
    table.add_column("chars", justify="right")
    for kind in kinds:
        for name in ("R", "P", "H"):
            table.add_column(f"{kind} {name}", justify="right")
    for (low, high), totals in zip(bins, scale_totals(evaluation), strict=True):
        values = [
            scores[f"{bin_label(low, high)}_{kind}_{score}"]
            for kind in kinds
            for score in ("recall", "precision", "hmean")
        ]
        table.add_row(
            f"{low:g} to {high:g}", f"{totals['chars_gt']:,}", *(f"{value:.4f}" for value in values)
        )
    return table


def outcome_table(evaluation: Evaluation) -> Any:
    """Where each word and each detection went."""
    from rich import box
    from rich.table import Table

    words, detections = outcomes(evaluation)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("words", justify="right")
    table.add_column("detections", justify="right")
    for outcome in words:
        table.add_row(outcome, f"{words[outcome]:,}", f"{detections[outcome]:,}")
    return table


def outcomes(evaluation: Evaluation) -> tuple[dict[str, int], dict[str, int]]:
    """How many words and how many detections met which end."""
    totals = evaluation.totals()
    words, detections = Counter[str](), Counter[str]()
    for i in range(len(evaluation)):
        matched = evaluation.match(i).matched
        for counter, indices in ((words, [p.gt for p in matched]), (detections, [p.det for p in matched])):
            relations: dict[int, set[str]] = {}
            for index, pair in zip(indices, matched, strict=True):
                relations.setdefault(index, set()).update(pair.relations)
            # a pair can be one-to-one by area and yet part of a merge by characters
            counter.update(
                " and ".join(sorted(found - {"one-to-one"}) or found) for found in relations.values()
            )
    kinds = sorted({*words, *detections}, key=lambda kind: (kind != "one-to-one", kind))
    return tuple(
        {
            **{kind: counter[kind] for kind in kinds},
            "without a match": total - sum(counter.values()),
            "ignored": ignored,
        }
        for counter, total, ignored in (
            (words, totals["words_gt"], totals["ignored_gt"]),
            (detections, totals["words_det"], totals["ignored_det"]),
        )
    )  # type: ignore[return-value]


def scale_totals(evaluation: Evaluation) -> list[dict[str, int]]:
    """Total counts, bin by bin."""
    if evaluation.scale_counts is None:
        return []
    return [total_counts(evaluation.scale_counts[:, k]) for k in range(evaluation.scale_counts.shape[1])]


def faults_line(totals: dict[str, int], e2e: bool) -> str:
    """Splits, merges and what else costs score."""
    parts = [
        f"splits {totals['splits']:,}",
        f"merges {totals['merges']:,}",
        f"overlapping characters {totals['overlaps']:,}",
        f"missed characters {totals['chars_gt'] - totals['det_tp']:,}",
        f"false positives {totals['false_positives']:,} (as {totals['det_fp_chars']:,} characters)",
    ]
    if e2e:
        parts.append(f"wrong letters {totals['e2e_fp_chars']:,}")
    return ", ".join(parts)


def rules_line(rules: CLEvalRules) -> str:
    """Which rule set and version made the figures, and every change to the rule set."""
    parts = [
        f"ap constraint {rules.ap_constraint:g}",
        "case-sensitive" if rules.case_sensitive else "case-insensitive",
        f"characters are {rules.text_unit}s",
    ]
    told = ("ap_constraint", "case_sensitive", "text_unit")
    parts += [f"{name} {value}" for name, value in changes_of(rules).items() if name not in told]
    return f"rules {rules.name} ({', '.join(parts)}), cleval-tm {__version__}"


def changes_of(rules: CLEvalRules) -> dict[str, Any]:
    """The fields in which ``rules`` are not the published ones of their name."""
    published = CLEvalRules.named(rules.name).to_dict()
    return {name: value for name, value in rules.to_dict().items() if value != published[name]}


def json_report(evaluation: Evaluation, sides: Sides) -> str:
    """Rules, version, scores and counts, with full precision."""
    document: dict[str, Any] = {
        "rules": evaluation.rules.to_dict(),
        "version": __version__,
        "e2e": evaluation.e2e,
        "files": {
            name: {"path": str(path), "format": request.format, "box_type": request.box_type}
            for name, path, request in (
                ("gt", sides.gt_path, sides.gt),
                ("result", sides.result_path, sides.result),
            )
        },
        "scores": evaluation.scores(),
        "counts": evaluation.totals(),
    }
    if evaluation.scale_bins is not None:
        labels = [bin_label(low, high) for low, high in scale_bins_of(evaluation.scale_bins)]
        document["scale_counts"] = dict(zip(labels, scale_totals(evaluation), strict=True))
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def per_image_csv(evaluation: Evaluation) -> str:
    """One row an image with its scores and counts, worst first (E2E H-mean, or the detection's)."""
    names = score_names(e2e=evaluation.e2e)
    scores = evaluation.image_scores()
    counts = evaluation.counts.tolist()
    worst = scores["e2e_hmean" if evaluation.e2e else "det_hmean"].tolist()
    missed = [row[COUNTS.index("chars_gt")] - row[COUNTS.index("det_tp")] for row in counts]
    # an image without anything to find and anything found scores 0 and is no bad one
    empty = [not (row[COUNTS.index("chars_gt")] or row[COUNTS.index("chars_det")]) for row in counts]
    order = sorted(range(len(counts)), key=lambda i: (empty[i], worst[i], -missed[i]))
    rules = " ".join([evaluation.rules.name, *(f"{k}={v}" for k, v in changes_of(evaluation.rules).items())])
    columns = {name: scores[name].tolist() for name in names}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *names, *COUNTS, "missed_chars", "rules"])
    for i in order:
        own = [repr(columns[name][i]) for name in names]
        writer.writerow([evaluation.image_ids[i], *own, *counts[i], missed[i], rules])
    return text.getvalue()
