"""Which words and detections belong together: pairs, area precision, ignored detections, the match relation.

A pair is a word and a detection of one image that share area or a pseudo character. Lists of M pairs run in
parallel, by image, detection, word; words and detections are counted from their image's first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner, kernel
from cleval_tm.kernels.candidates import build_tree, longer, query_tree, sort_indices, spatial_order
from cleval_tm.kernels.characters import TRUNCATED, TRUNCATED_POINTS
from cleval_tm.kernels.geometry import contains, contains_strictly, overlap_area

ONE_TO_ONE, SPLIT, MERGE = 1, 2, 4
"""Bits of a pair's relation."""


class Words(NamedTuple):
    """Ground truth of many images; S words, C pseudo characters, E edges, V views.

    A view is one way of ignoring words: the first is the plain one, the others are scale bins.
    """

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
    points: Any  # (P, 2) float64, as given
    rectangle_aspect: Any  # (S,) float64
    letters: Any  # (letters,) int32
    letter_start: Any  # (S + 1,) int64
    label: Any  # (S,) int64
    irregular: Any  # (S,) bool


class Pairs(NamedTuple):
    """The pairs of some images."""

    image_start: Any  # (images + 1,) int64 first pair of each image
    gt: Any  # (M,) int64
    det: Any  # (M,) int64
    shared_area: Any  # (M,) float64
    hit_count: Any  # (M,) int64 characters of the word that the detection contains
    hit_start: Any  # (M + 1,) int64
    hits: Any  # (H,) uint8, from hit_start[pair] on: whether the detection contains the word's character


class Options(NamedTuple):
    """What of a rule set the hot loop asks for."""

    ap_constraint: float
    ap_float32_constraint: float
    in_float32: bool
    ignores_strictly: bool
    lcs_prefers_left: bool
    reads_text: bool
    by_height: bool
    pseudo_length_cap: int


@inner
def word_bounds(bounds: Floats, char_start: Ints, centres: Floats, first: int, last: int) -> Floats:
    """Bounding boxes (last - first, 4) of words and their pseudo characters."""
    boxes = np.empty((last - first, 4))
    for g in range(first, last):
        left = bounds[g, 0]
        top = bounds[g, 1]
        right = bounds[g, 2]
        bottom = bounds[g, 3]
        for c in range(char_start[g], char_start[g + 1]):
            left = min(left, centres[c, 0])
            top = min(top, centres[c, 1])
            right = max(right, centres[c, 0])
            bottom = max(bottom, centres[c, 1])
        boxes[g - first, 0] = left
        boxes[g - first, 1] = top
        boxes[g - first, 2] = right
        boxes[g - first, 3] = bottom
    return boxes


@inner
def mark_hits(
    words: Words, g: int, detections: Detections, d: int, is_open: bool, hits: Bytes, start: int
) -> int:
    """Set ``hits[start + k]`` for each pseudo character of word ``g`` that detection ``d`` holds; return how many."""
    count = 0
    left = detections.bounds[d, 0]
    top = detections.bounds[d, 1]
    right = detections.bounds[d, 2]
    bottom = detections.bounds[d, 3]
    first = words.char_start[g]
    for c in range(first, words.char_start[g + 1]):
        x = words.centres[c, 0]
        y = words.centres[c, 1]
        inside = False
        if x >= left and x <= right and y >= top and y <= bottom:
            if is_open:
                inside = contains_strictly(
                    detections.edges, detections.edge_start[d], detections.edge_end[d], x, y
                )
            else:
                inside = contains(
                    detections.rings, detections.ring_start[d], detections.ring_start[d + 1], x, y
                )
        hits[start + c - first] = inside
        count += inside
    return count


@kernel
def find_pairs(words: Words, gt_image: Ints, detections: Detections, first: int, last: int) -> Pairs:
    """All pairs of images ``first`` to ``last`` that share area or a pseudo character.

    Args:
        words: :class:`Words`.
        gt_image: (n,) int64, the image in ``words`` of each image in ``detections``.
        detections: :class:`Detections` of n images.

    Returns:
        :class:`Pairs`.
    """
    det = detections
    n_det = det.image_start[last] - det.image_start[first]
    capacity = 3 * n_det + 16
    image_start = np.zeros(last - first + 1, np.int64)
    pair_gt = np.empty(capacity, np.int64)
    pair_det = np.empty(capacity, np.int64)
    shared_area = np.empty(capacity)
    hit_count = np.empty(capacity, np.int64)
    hit_start = np.zeros(capacity + 1, np.int64)
    hits = np.empty(4 * capacity, np.uint8)
    size = 0
    for image in range(first, last):
        gt_first = words.image_start[gt_image[image]]
        gt_last = words.image_start[gt_image[image] + 1]
        det_first = det.image_start[image]
        boxes = word_bounds(words.bounds, words.char_start, words.centres, gt_first, gt_last)
        order = spatial_order(boxes)
        tree, level_start = build_tree(boxes, order)
        nodes = np.empty(gt_last - gt_first + 1, np.int64)
        found = np.empty(gt_last - gt_first + 1, np.int64)
        for d in range(det_first, det.image_start[image + 1]):
            n_found = query_tree(tree, level_start, order, det.bounds, d, nodes, found)
            sort_indices(found, n_found)
            edge_start = det.edge_start[d]
            edge_end = det.edge_end[d]
            top = det.bounds[d, 1]
            is_open = det.style[d] == TRUNCATED or det.style[d] == TRUNCATED_POINTS
            for f in range(n_found):
                g = gt_first + found[f]
                start = hit_start[size]
                length = words.char_start[g + 1] - words.char_start[g]
                if size == len(pair_gt):
                    pair_gt = longer(pair_gt, size + 1)
                    pair_det = longer(pair_det, size + 1)
                    shared_area = longer(shared_area, size + 1)
                    hit_count = longer(hit_count, size + 1)
                    hit_start = longer(hit_start, len(pair_gt) + 1)
                if start + length > len(hits):
                    hits = longer(hits, start + length)
                area = overlap_area(
                    words.edges, words.edge_start[g], words.edge_end[g], det.edges, edge_start, edge_end, top
                )
                count = mark_hits(words, g, det, d, is_open, hits, start)
                if area > 0.0 or count > 0:
                    pair_gt[size] = found[f]
                    pair_det[size] = d - det_first
                    shared_area[size] = area
                    hit_count[size] = count
                    hit_start[size + 1] = start + length
                    size += 1
        image_start[image - first + 1] = size
    return Pairs(
        image_start,
        pair_gt[:size],
        pair_det[:size],
        shared_area[:size],
        hit_count[:size],
        hit_start[: size + 1],
        hits,
    )


@inner
def group_pairs(pair_gt: Ints, n: int) -> tuple[Ints, Ints]:
    """Pairs by word: (start (n + 1,), pairs (M,)) int64, each word's in the order they had."""
    start = np.zeros(n + 1, np.int64)
    for p in range(len(pair_gt)):
        start[pair_gt[p] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    at = start[:n].copy()
    grouped = np.empty(len(pair_gt), np.int64)
    for p in range(len(pair_gt)):
        grouped[at[pair_gt[p]]] = p
        at[pair_gt[p]] += 1
    return start, grouped


@inner
def find_ignored_detections(
    ignored: Bools,
    order: Ints,
    pair_gt: Ints,
    pair_det: Ints,
    ap: Floats,
    hit_count: Ints,
    det_ignored: Bools,
    threshold: float,
    options: Options,
) -> None:
    """Set ``det_ignored`` (n_det,) where an ignored word takes a detection out, alone or several together."""
    n_det = len(det_ignored)
    summed = np.zeros(n_det)
    gt_start, gt_pairs = group_pairs(pair_gt, len(ignored))
    for t in range(len(order)):
        g = order[t]
        if not ignored[g]:
            continue
        for at in range(gt_start[g], gt_start[g + 1]):
            p = gt_pairs[at]
            d = pair_det[p]
            if hit_count[p] > 0:
                total = summed[d] + ap[p]
                summed[d] = np.float32(total) if options.in_float32 else total
            reached = max(ap[p], summed[d])
            if reached > threshold or (reached == threshold and not options.ignores_strictly):
                det_ignored[d] = True
        if threshold <= 0.0 and not options.ignores_strictly:
            for d in range(n_det):  # even a word that shares nothing has an ap of 0
                det_ignored[d] = True


@inner
def relate(
    ignored: Bools,
    det_ignored: Bools,
    pair_gt: Ints,
    pair_det: Ints,
    ap: Floats,
    hit_count: Ints,
    relation: Bytes,
    threshold: float,
    merge_threshold: float,
) -> None:
    """Fill ``relation`` (M,) uint8 with the match relation M of one image."""
    n_det = len(det_ignored)
    row_touches = np.zeros(len(ignored), np.int64)
    row_valid_touches = np.zeros(len(ignored), np.int64)
    column_touches = np.zeros(n_det, np.int64)
    column_words = np.zeros(n_det, np.int64)
    column_ap = np.zeros(n_det)
    for p in range(len(pair_gt)):
        if hit_count[p] == 0:
            continue
        g = pair_gt[p]
        d = pair_det[p]
        if not ignored[g]:
            column_words[d] += 1
            column_ap[d] += ap[p]
        if ap[p] >= threshold:
            row_touches[g] += 1
            column_touches[d] += 1
            if not det_ignored[d]:
                row_valid_touches[g] += 1
    for p in range(len(pair_gt)):
        g = pair_gt[p]
        d = pair_det[p]
        found = 0
        if hit_count[p] > 0 and not ignored[g] and not det_ignored[d]:
            if ap[p] >= threshold:
                if row_touches[g] == 1 and column_touches[d] == 1:
                    found |= ONE_TO_ONE
                if row_valid_touches[g] > 1:
                    found |= SPLIT
            if column_words[d] > 1 and column_ap[d] >= merge_threshold:
                found |= MERGE
        relation[p] = found


@kernel
def relate_pairs(
    words: Words,
    gt_image: Ints,
    detections: Detections,
    first: int,
    last: int,
    pairs: Pairs,
    options: Options,
) -> tuple[Floats, Bytes, Bools]:
    """The match relation of images ``first`` to ``last`` in each view.

    Args:
        words, gt_image, detections, first, last: as for :func:`find_pairs`.
        pairs: :class:`Pairs` of these images.
        options: :class:`Options`.

    Returns:
        (ap (V, M) float64, relation (V, M) uint8 bits of ONE_TO_ONE, SPLIT and MERGE, ignored detections (V, D)
        bool, counted from image ``first``).
    """
    views = len(words.ignored)
    n_pairs = len(pairs.gt)
    base = detections.image_start[first]
    ap = np.empty((views, n_pairs))
    relation = np.empty((views, n_pairs), np.uint8)
    det_ignored = np.zeros((views, detections.image_start[last] - base), np.bool_)
    threshold = options.ap_float32_constraint if options.in_float32 else options.ap_constraint
    for image in range(first, last):
        gt_first = words.image_start[gt_image[image]]
        gt_last = words.image_start[gt_image[image] + 1]
        det_first = detections.image_start[image]
        det_last = detections.image_start[image + 1]
        start = pairs.image_start[image - first]
        end = pairs.image_start[image - first + 1]
        pair_gt = pairs.gt[start:end]
        pair_det = pairs.det[start:end]
        hit_count = pairs.hit_count[start:end]
        for view in range(views):
            ignored = words.ignored[view, gt_first:gt_last]
            ignores = False
            for p in range(start, end):
                g = gt_first + pairs.gt[p]
                d = det_first + pairs.det[p]
                shared = pairs.shared_area[p]
                region = words.region[view, g]
                if region != g:
                    shared = overlap_area(
                        words.edges,
                        words.edge_start[region],
                        words.edge_end[region],
                        detections.edges,
                        detections.edge_start[d],
                        detections.edge_end[d],
                        detections.bounds[d, 1],
                    )
                ratio = shared / detections.area[d] if detections.area[d] > 0.0 else 0.0
                ap[view, p] = np.float32(ratio) if options.in_float32 else ratio
            for g in range(gt_last - gt_first):
                ignores |= ignored[g]
            mine = det_ignored[view, det_first - base : det_last - base]
            if ignores:
                find_ignored_detections(
                    ignored,
                    words.order[view, gt_first:gt_last],
                    pair_gt,
                    pair_det,
                    ap[view, start:end],
                    hit_count,
                    mine,
                    threshold,
                    options,
                )
            relate(
                ignored,
                mine,
                pair_gt,
                pair_det,
                ap[view, start:end],
                hit_count,
                relation[view, start:end],
                threshold,
                options.ap_constraint,
            )
    return ap, relation, det_ignored
