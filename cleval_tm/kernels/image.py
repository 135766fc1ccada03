"""One image through matching and counting; the loop over images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Ints, inner, kernel
from cleval_tm.kernels.counting import (
    count_claims,
    count_detections,
    count_labels,
    count_letters,
    count_matches,
    count_words,
)
from cleval_tm.kernels.matching import (
    Detections,
    Options,
    Pairs,
    Words,
    area_precisions,
    find_pairs,
    ignored_detections,
    relate,
    room_for,
)
from cleval_tm.kernels.measure import IRREGULAR


class Match(NamedTuple):
    """What happened in an image, in one view; M pairs, D detections, C pseudo characters."""

    pairs: Pairs
    ap: Any  # (M,) float64 area precision
    relation: Any  # (M,) uint8 bits of ONE_TO_ONE, SPLIT and MERGE
    det_ignored: Any  # (D,) uint8
    claims: Any  # (C,) int64 how many matched detections contain each character


@inner
def count_irregular(kind: Bytes, first: int, last: int) -> int:
    count = 0
    for s in range(first, last):
        count += kind[s] >= IRREGULAR
    return count


@inner
def count_view(
    words: Words,
    view: int,
    gt_first: int,
    gt_last: int,
    detections: Detections,
    det_first: int,
    det_last: int,
    pairs: Pairs,
    size: int,
    options: Options,
    row: Ints,
) -> Match:
    """Fill an image's row of counts (21,) in one view, from its ``size`` pairs."""
    n_gt = gt_last - gt_first
    n_det = det_last - det_first
    char_start = words.char_start
    ignored: Bools = words.ignored[view, gt_first:gt_last]
    threshold = options.ap_float32_constraint if options.in_float32 else options.ap_constraint
    ap = area_precisions(words, view, gt_first, detections, det_first, pairs, size, options.in_float32)
    det_ignored = ignored_detections(
        ignored,
        words.order,
        view,
        gt_first,
        n_det,
        pairs,
        size,
        ap,
        threshold,
        options.in_float32,
        options.ignores_strictly,
    )
    relation = relate(ignored, det_ignored, pairs, size, ap, threshold, options.ap_constraint)
    claims = np.zeros(char_start[gt_last] - char_start[gt_first], np.int64)
    contained, first_claims = count_claims(relation, pairs, char_start, gt_first, claims)
    gt_matches = count_matches(relation, pairs.gt, n_gt)
    det_matches = count_matches(relation, pairs.det, n_det)
    count_words(words, view, gt_first, gt_matches, row)
    count_detections(detections, det_first, det_matches, det_ignored, options, row)
    count_labels(relation, pairs, words.label, gt_first, detections.label, det_first, row)
    row[1] = contained + row[5]  # chars_det
    row[2] = first_claims  # det_tp
    row[8] = contained - first_claims  # overlaps
    if options.reads_text:
        row[10] = count_letters(  # e2e_tp
            words,
            view,
            gt_first,
            gt_matches,
            detections,
            det_first,
            det_matches,
            pairs,
            relation,
            options.lcs_prefers_left,
        )
    row[12] = row[11] - row[10]  # e2e_fp_chars
    row[20] = count_irregular(words.shapes.kind, gt_first, gt_last)
    row[20] += count_irregular(detections.shapes.kind, det_first, det_last)
    return Match(pairs, ap, relation, det_ignored, claims)


@kernel
def count_images(
    words: Words,
    gt_image: Ints,
    detections: Detections,
    first: int,
    last: int,
    options: Options,
    table: Ints,
) -> None:
    """Count images ``first`` to ``last``.

    Args:
        words: :class:`Words`.
        gt_image: (n,) int64, the image in ``words`` of each image in ``detections``.
        detections: :class:`Detections` of n images.
        options: :class:`Options`.
        table: (n, V, 21) int64 zeros, rows of these images filled; columns in the order of
            ``cleval_tm.counts.COUNTS``.
    """
    gt_start = words.shapes.image_start
    det_start = detections.shapes.image_start
    pairs = room_for(64)
    for image in range(first, last):
        gt_first = gt_start[gt_image[image]]
        gt_last = gt_start[gt_image[image] + 1]
        det_first = det_start[image]
        det_last = det_start[image + 1]
        size, pairs = find_pairs(words, gt_first, gt_last, detections, det_first, det_last, False, pairs)
        for view in range(len(words.ignored)):
            row = table[image, view]
            count_view(
                words, view, gt_first, gt_last, detections, det_first, det_last, pairs, size, options, row
            )


@kernel
def explain_image(words: Words, gt_image: int, detections: Detections, image: int, options: Options) -> Match:
    """What happened in one image, in the first view, with all pairs that share area; else as :func:`count_images`."""
    gt_first = words.shapes.image_start[gt_image]
    gt_last = words.shapes.image_start[gt_image + 1]
    det_first = detections.shapes.image_start[image]
    det_last = detections.shapes.image_start[image + 1]
    size, pairs = find_pairs(words, gt_first, gt_last, detections, det_first, det_last, True, room_for(64))
    row = np.zeros(21, np.int64)
    return count_view(words, 0, gt_first, gt_last, detections, det_first, det_last, pairs, size, options, row)
