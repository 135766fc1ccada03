"""One image through pairs, matching and counting; and the loop over images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import inner, kernel
from cleval_tm.kernels.counting import count_claims, count_letters
from cleval_tm.kernels.matching import (
    area_precisions,
    find_ignored_detections,
    find_pairs,
    group_pairs,
    relate,
)


class Words(NamedTuple):
    """Ground truth of many images; S words, P points, C pseudo characters, E edges, V views."""

    image_start: Any  # (images + 1,) int64 first word of each image
    bounds: Any  # (S, 4) float64 left, top, right, bottom
    edges: Any  # (E, 6) float64, see geometry
    edge_start: Any  # (regions,) int64; region s is that of word s, those after S are of ignored words
    edge_end: Any  # (regions,) int64
    char_start: Any  # (S + 1,) int64
    centres: Any  # (C, 2) float64
    letters: Any  # (letters,) int32
    letter_start: Any  # (S + 1,) int64
    label: Any  # (S,) int64 orientation, -1 without one
    irregular: Any  # (S,) bool
    ignored: Any  # (V, S) bool
    region: Any  # (V, S) int64, what is left of the word where it is ignored
    order: Any  # (V, S) int64, the order in which an image's words are walked, counted from its first


class Detections(NamedTuple):
    """Detections of many images; S detections, P points, E edges."""

    image_start: Any  # (images + 1,) int64
    rings: Any  # (P, 2) float64
    ring_start: Any  # (S + 1,) int64
    style: Any  # (S,) uint8, see characters
    bounds: Any  # (S, 4) float64
    area: Any  # (S,) float64
    edges: Any  # (E, 6) float64
    edge_start: Any  # (S,) int64
    edge_end: Any  # (S,) int64
    false_positive_chars: Any  # (S,) int64
    letters: Any  # (letters,) int32
    letter_start: Any  # (S + 1,) int64
    label: Any  # (S,) int64
    irregular: Any  # (S,) bool


class Options(NamedTuple):
    """What of a rule set the hot loop asks for."""

    ap_constraint: float
    ap_float32_constraint: float
    in_float32: bool
    ignores_strictly: bool
    lcs_prefers_left: bool
    reads_text: bool


@inner
def match_view(gt, gt_first, gt_last, det, det_first, det_last, view, pairs, gt_start, gt_pairs, options):
    """(ap (M,), ignored detections (n_det,), relation (M,)) of one image as one view of it ignores words."""
    pair_gt, pair_det, shared_area, hit_count, _, _ = pairs
    ignored = gt.ignored[view, gt_first:gt_last]
    ap = area_precisions(
        gt,
        gt_first,
        gt.region[view, gt_first:gt_last],
        ignored,
        det,
        det_first,
        pair_gt,
        pair_det,
        shared_area,
        options.in_float32,
    )
    order = gt.order[view, gt_first:gt_last]
    det_ignored = find_ignored_detections(
        ignored, order, gt_start, gt_pairs, pair_det, ap, hit_count, det_last - det_first, options
    )
    return ap, det_ignored, relate(ignored, det_ignored, pair_gt, pair_det, ap, hit_count, options)


@inner
def count_view(gt, gt_first, gt_last, det, det_first, det_last, view, pairs, gt_start, gt_pairs, options, row):
    """Fill ``row`` (21,) int64 with the counts of one image as one view of it ignores words."""
    pair_gt, pair_det, _, hit_count, hit_start, hits = pairs
    n_gt = gt_last - gt_first
    n_det = det_last - det_first
    _, det_ignored, relation = match_view(
        gt, gt_first, gt_last, det, det_first, det_last, view, pairs, gt_start, gt_pairs, options
    )
    ignored = gt.ignored[view, gt_first:gt_last]
    claim_start = gt.char_start[gt_first : gt_last + 1]
    claims = np.zeros(claim_start[n_gt] - claim_start[0], np.int64)
    contained, first_claims = count_claims(
        relation, pair_gt, pair_det, hit_count, hit_start, hits, claims, claim_start
    )
    gt_matches = np.zeros(n_gt, np.int64)
    det_matches = np.zeros(n_det, np.int64)
    orientation_pairs = 0
    orientation_correct = 0
    for p in range(len(relation)):
        if relation[p] != 0:
            gt_matches[pair_gt[p]] += 1
            det_matches[pair_det[p]] += 1
            label = gt.label[gt_first + pair_gt[p]]
            other = det.label[det_first + pair_det[p]]
            if label >= 0 and other >= 0:
                orientation_pairs += 1
                orientation_correct += label == other
    chars_gt = words_gt = splits = recall_granularity = irregular = 0
    for g in range(n_gt):
        irregular += gt.irregular[gt_first + g]
        if not ignored[g]:
            words_gt += 1
            chars_gt += claim_start[g + 1] - claim_start[g]
            splits += gt_matches[g] > 1
            recall_granularity += max(gt_matches[g] - 1, 0)
    words_det = merges = precision_granularity = fp_chars = false_positives = text_chars = recognition_chars = 0
    for d in range(n_det):
        irregular += det.irregular[det_first + d]
        if not det_ignored[d]:
            length = det.letter_start[det_first + d + 1] - det.letter_start[det_first + d]
            words_det += 1
            text_chars += length
            merges += det_matches[d] > 1
            precision_granularity += max(det_matches[d] - 1, 0)
            if det_matches[d] == 0:
                false_positives += 1
                fp_chars += det.false_positive_chars[det_first + d]
            else:
                recognition_chars += length
    e2e_tp = 0
    if options.reads_text:
        e2e_tp = count_letters(
            gt,
            gt_first,
            det,
            det_first,
            n_det,
            ignored,
            gt.order[view, gt_first:gt_last],
            relation,
            pair_det,
            gt_start,
            gt_pairs,
            hit_start,
            hits,
            options.lcs_prefers_left,
        )
    row[0] = chars_gt
    row[1] = contained + fp_chars
    row[2] = first_claims
    row[3] = recall_granularity
    row[4] = precision_granularity
    row[5] = fp_chars
    row[6] = splits
    row[7] = merges
    row[8] = contained - first_claims
    row[9] = false_positives
    row[10] = e2e_tp
    row[11] = text_chars
    row[12] = text_chars - e2e_tp
    row[13] = recognition_chars
    row[14] = orientation_pairs
    row[15] = orientation_correct
    row[16] = words_gt
    row[17] = words_det
    row[18] = n_gt - words_gt
    row[19] = n_det - words_det
    row[20] = irregular


@kernel
def count_images(gt, gt_image, det, first, last, options, table):
    """Fill rows ``first`` to ``last`` of the table of counts.

    Args:
        gt: :class:`Words`.
        gt_image: (n,) int64, the image in ``gt`` of each of the n images to count.
        det: :class:`Detections` of n images.
        options: :class:`Options`.
        table: (n, V, 21) int64, filled; columns in the order of ``cleval_tm.counts.COUNTS``.
    """
    for i in range(first, last):
        gt_first = gt.image_start[gt_image[i]]
        gt_last = gt.image_start[gt_image[i] + 1]
        det_first = det.image_start[i]
        det_last = det.image_start[i + 1]
        pairs = find_pairs(gt, gt_first, gt_last, det, det_first, det_last)
        gt_start, gt_pairs = group_pairs(pairs[0], gt_last - gt_first)
        for view in range(len(gt.ignored)):
            count_view(
                gt, gt_first, gt_last, det, det_first, det_last, view, pairs, gt_start, gt_pairs, options, table[i, view]
            )


@kernel
def match_image(gt, gt_image, det, image, options):
    """What happened in one image (view 0).

    Returns:
        (pairs, ap, det_ignored, relation, claims): the pairs as of :func:`find_pairs`, (M,) float64,
        (n_det,) bool, (M,) uint8, and (C,) int64 matched detections that contain each character.
    """
    gt_first = gt.image_start[gt_image]
    gt_last = gt.image_start[gt_image + 1]
    det_first = det.image_start[image]
    det_last = det.image_start[image + 1]
    pairs = find_pairs(gt, gt_first, gt_last, det, det_first, det_last)
    gt_start, gt_pairs = group_pairs(pairs[0], gt_last - gt_first)
    ap, det_ignored, relation = match_view(
        gt, gt_first, gt_last, det, det_first, det_last, 0, pairs, gt_start, gt_pairs, options
    )
    claim_start = gt.char_start[gt_first : gt_last + 1]
    claims = np.zeros(claim_start[len(claim_start) - 1] - claim_start[0], np.int64)
    count_claims(relation, pairs[0], pairs[1], pairs[3], pairs[4], pairs[5], claims, claim_start)
    return pairs, ap, det_ignored, relation, claims
