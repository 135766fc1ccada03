"""One image through matching and counting; the loop over images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner, kernel
from cleval_tm.kernels.counting import (
    count_claims,
    count_detections,
    count_labels,
    count_letters,
    count_matches,
    count_words,
)
from cleval_tm.kernels.matching import (
    DET,
    GT,
    HIT_START,
    Detections,
    Options,
    Pairs,
    Words,
    area_precisions,
    find_pairs,
    ignored_detections,
    relate,
)
from cleval_tm.kernels.measure import IRREGULAR


class Story(NamedTuple):
    """Room to tell what happened in an image, in its first view; M pairs, D detections, C pseudo characters."""

    needs: Any  # (2,) int64, filled: how many pairs and how many hits there are; or none where nothing is to be told
    pairs: Any  # (M or more, 4) int64 word, detection, bits of ONE_TO_ONE, SPLIT and MERGE, first of the hits
    ap: Any  # (M or more,) float64 area precision
    hits: Any  # uint8: whether the detection contains each character of the word
    det_ignored: Any  # (D,) uint8
    claims: Any  # (C,) int64 how many matched detections contain each character


NO_STORY = Story(
    np.empty(0, np.int64),
    np.empty((0, 4), np.int64),
    np.empty(0),
    np.empty(0, np.uint8),
    np.empty(0, np.uint8),
    np.empty(0, np.int64),
)


@inner
def tell(story: Story, pairs: Pairs, ap: Floats, relation: Bytes, det_ignored: Bytes, claims: Ints) -> None:
    """Fill a story, if its room is enough for the pairs and hits; what it needs in any case."""
    needs, told, told_ap, told_hits, told_ignored, told_claims = story
    needs[0] = len(ap)
    needs[1] = pairs.rows[len(ap), HIT_START]
    if needs[0] > len(told_ap) or needs[1] > len(told_hits):
        return
    for p in range(len(ap)):
        told[p, 0] = pairs.rows[p, GT]
        told[p, 1] = pairs.rows[p, DET]
        told[p, 2] = relation[p]
        told[p, 3] = pairs.rows[p, HIT_START]
        told_ap[p] = ap[p]
    for hit in range(needs[1]):
        told_hits[hit] = pairs.hits[hit]
    for d in range(len(det_ignored)):
        told_ignored[d] = det_ignored[d]
    for c in range(len(claims)):
        told_claims[c] = claims[c]


@inner
def count_irregular(kind: Bytes, first: int, last: int) -> int:
    count = 0
    for s in range(first, last):
        count += kind[s] >= IRREGULAR
    return count


@kernel
def count_images(
    words: Words,
    gt_image: Ints,
    detections: Detections,
    found_start: Ints,
    found: Ints,
    first: int,
    last: int,
    options: Options,
    table: Ints,
    story: Story,
) -> None:
    """Count images ``first`` to ``last``.

    Args:
        words: :class:`Words`.
        gt_image: (n,) int64, the image in ``words`` of each image in ``detections``.
        detections: :class:`Detections` of n images.
        found_start, found: of these images, see :func:`~cleval_tm.kernels.candidates.find_candidates`.
        options: :class:`Options`.
        table: (last - first, V, 21) int64 zeros, filled; columns in the order of ``cleval_tm.counts.COUNTS``.
        story: ``NO_STORY``, or room for that of the one image: then all its pairs that share area are looked at.
    """
    gt_start = words.shapes.image_start
    det_start = detections.shapes.image_start
    char_start = words.char_start
    whole = len(story.needs) > 0
    threshold = options.ap_float32_constraint if options.in_float32 else options.ap_constraint
    enough = 1.001 * options.ap_constraint  # rounding leaves it above both thresholds
    for image in range(first, last):
        gt_first = gt_start[gt_image[image]]
        gt_last = gt_start[gt_image[image] + 1]
        det_first = det_start[image]
        det_last = det_start[image + 1]
        n_gt = gt_last - gt_first
        n_det = det_last - det_first
        size, pairs = find_pairs(
            words,
            gt_first,
            gt_last,
            detections,
            det_first,
            det_last,
            found_start,
            det_start[first],
            found,
            enough,
            whole,
        )
        for view in range(1 if whole else len(words.ignored)):
            row = table[image - first, view]
            ignored: Bools = words.ignored[view, gt_first:gt_last]
            ap = area_precisions(
                words, view, gt_first, detections, det_first, pairs, size, options.in_float32
            )
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
            gt_matches = count_matches(relation, pairs.rows, GT, n_gt)
            contained, first_claims = count_claims(
                relation, pairs, gt_matches, char_start, gt_first, claims, whole
            )
            det_matches = count_matches(relation, pairs.rows, DET, n_det)
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
            if whole:
                tell(story, pairs, ap, relation, det_ignored, claims)
