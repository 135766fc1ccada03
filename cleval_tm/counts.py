"""The integer counts of CLEval: their names, their sums, and every score that follows from them.

A table of counts has one row an image and one column a name in :data:`COUNTS`; a count depends on no
weight. Everything here is numpy and plain Python.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cleval_tm.rules import CLEvalRules

COUNTS: tuple[str, ...] = (
    "chars_gt",
    "chars_det",
    "det_tp",
    "recall_granularity",
    "precision_granularity",
    "det_fp_chars",
    "splits",
    "merges",
    "overlaps",
    "false_positives",
    "e2e_tp",
    "e2e_chars_det",
    "e2e_fp_chars",
    "recognition_chars",
    "orientation_pairs",
    "orientation_correct",
    "words_gt",
    "words_det",
    "ignored_gt",
    "ignored_det",
    "irregular",
)
"""Names of the count columns, in the order of an image's row."""

COLUMN: dict[str, int] = {name: column for column, name in enumerate(COUNTS)}
"""Column of each name in :data:`COUNTS`."""

DETECTION_SCORES = ("det_recall", "det_precision", "det_hmean")
E2E_SCORES = ("e2e_recall", "e2e_precision", "e2e_hmean", "recognition_score")

IntTable = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]


def score_names(*, e2e: bool) -> tuple[str, ...]:
    """Names of the scores that :func:`image_scores` gives, in their order."""
    return (*DETECTION_SCORES, *(E2E_SCORES if e2e else ()))


def image_scores(table: IntTable, rules: CLEvalRules, *, e2e: bool) -> dict[str, FloatColumn]:
    """Each image's own scores.

    Args:
        table: (n, len(COUNTS)) int64, a row an image.
        rules: the rule set; its weights and rounding are applied here.
        e2e: whether the end-to-end scores are wanted.

    Returns:
        a float64 array (n,) for each of :func:`score_names`; 0 where a denominator is 0.
    """
    numerators = _numerators(table, rules)
    scores = _scores(table, numerators, e2e)
    if rules.float32_image_scores:
        scores = {name: values.astype(np.float32).astype(np.float64) for name, values in scores.items()}
    return scores


def corpus_scores(table: IntTable, rules: CLEvalRules, *, e2e: bool) -> dict[str, float]:
    """Scores of a whole corpus, from the sums of its images' counts.

    Args:
        table: (n, len(COUNTS)) int64. A table of one row of sums serves as well, except for rule sets that
            clamp in each image (``rules.clamp_per_image``), which need the rows.
        rules: the rule set.
        e2e: whether the end-to-end scores are wanted.

    Returns:
        a float for each of :func:`score_names`; 0 where a denominator is 0.
    """
    totals = table.sum(axis=0, dtype=np.int64)[np.newaxis]
    if rules.clamp_per_image:
        numerators = {
            name: np.array([math.fsum(values.tolist())]) for name, values in _numerators(table, rules).items()
        }
    else:
        numerators = _numerators(totals, rules)
    return {name: float(values[0]) for name, values in _scores(totals, numerators, e2e).items()}


def mean_scores(table: IntTable, rules: CLEvalRules, *, e2e: bool) -> dict[str, float]:
    """Means over the images of their own scores, each exactly rounded, so that no order shows; 0 without images."""
    n = len(table)
    return {
        f"mean_{name}": math.fsum(values.tolist()) / n if n else 0.0
        for name, values in image_scores(table, rules, e2e=e2e).items()
    }


def all_scores(
    table: IntTable,
    scale_table: IntTable | None,
    rules: CLEvalRules,
    *,
    e2e: bool,
    scale_bins: Sequence[float] | None = None,
    means: bool = True,
    orientation: bool = False,
) -> dict[str, float]:
    """Every score of a corpus.

    Args:
        table: (n, len(COUNTS)) int64.
        scale_table: (n, bins, len(COUNTS)) int64, or None without scale bins.
        rules: the rule set.
        e2e: whether the end-to-end scores are wanted.
        scale_bins: edges of the scale bins, or None.
        means: whether the ``mean_`` scores are wanted; they need a row an image.
        orientation: whether ``orientation_accuracy`` is wanted, of the matched pairs that both have a label.

    Returns:
        a float for each score, the same names for the same options.
    """
    scores = corpus_scores(table, rules, e2e=e2e)
    if means:
        scores |= mean_scores(table, rules, e2e=e2e)
    if orientation:
        totals = total_counts(table)
        pairs = totals["orientation_pairs"]
        scores["orientation_accuracy"] = totals["orientation_correct"] / pairs if pairs else 0.0
    if scale_bins is not None and scale_table is not None:
        for number, (low, high) in enumerate(scale_bins_of(scale_bins)):
            in_bin = corpus_scores(scale_table[:, number], rules, e2e=e2e)
            scores |= {f"{bin_label(low, high)}_{name}": value for name, value in in_bin.items()}
    return scores


def total_counts(table: IntTable) -> dict[str, int]:
    """Column sums as Python ints, by the names in :data:`COUNTS`."""
    return dict(zip(COUNTS, table.sum(axis=0, dtype=np.int64).tolist(), strict=True))


def bin_label(low: float, high: float) -> str:
    """How a scale bin is called in the names of scores, its edges as they were given."""
    return f"scale_{low}_{high}"


def scale_bins_of(bins: Sequence[float]) -> list[tuple[float, float]]:
    """Neighbouring edges as (low, high) bins."""
    return list(itertools.pairwise(bins))


def _column(table: IntTable, name: str) -> FloatColumn:
    return table[:, COLUMN[name]].astype(np.float64)


def _numerators(table: IntTable, rules: CLEvalRules) -> dict[str, FloatColumn]:
    """True positives less the granularity penalty, at least 0, for each recall and precision."""
    penalties = {
        "recall": rules.recall_granularity_weight * _column(table, "recall_granularity"),
        "precision": rules.precision_granularity_weight * _column(table, "precision_granularity"),
    }
    return {
        f"{kind}_{side}": np.maximum(_column(table, f"{kind}_tp") - penalty, 0.0)
        for kind in ("det", "e2e")
        for side, penalty in penalties.items()
    }


def _scores(table: IntTable, numerators: dict[str, FloatColumn], e2e: bool) -> dict[str, FloatColumn]:
    scores: dict[str, FloatColumn] = {}
    for kind, det_chars in (("det", "chars_det"), ("e2e", "e2e_chars_det"))[: 2 if e2e else 1]:
        recall = _ratio(numerators[f"{kind}_recall"], _column(table, "chars_gt"))
        precision = _ratio(numerators[f"{kind}_precision"], _column(table, det_chars))
        scores[f"{kind}_recall"] = recall
        scores[f"{kind}_precision"] = precision
        scores[f"{kind}_hmean"] = _ratio(2.0 * recall * precision, recall + precision)
    if e2e:
        scores["recognition_score"] = _ratio(_column(table, "e2e_tp"), _column(table, "recognition_chars"))
    return scores


def _ratio(numerator: FloatColumn, denominator: FloatColumn) -> FloatColumn:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
