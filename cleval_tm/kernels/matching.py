"""Which words and detections belong together: pairs, area precision, ignored detections, the match relation.

Within an image, ``pairs`` are lists in parallel: the word ``pair_gt`` and the detection ``pair_det`` (M,)
int64 of each pair that shares area or a pseudo character, by detection and then word. ``hits`` (H,) uint8 tells
for each character of a pair's word, from ``hit_start[pair]`` on, whether the detection contains it.
"""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import inner
from cleval_tm.kernels.candidates import build_tree, longer, query_tree, sort_indices, spatial_order
from cleval_tm.kernels.characters import TRUNCATED, TRUNCATED_POINTS
from cleval_tm.kernels.geometry import contains, contains_strictly, overlap_area

ONE_TO_ONE, SPLIT, MERGE = 1, 2, 4
"""Bits of a pair's relation."""


@inner
def word_bounds(gt, first, last):
    """Bounding boxes (n, 4) of words and their pseudo characters."""
    boxes = gt.bounds[first:last].copy()
    for g in range(last - first):
        for c in range(gt.char_start[first + g], gt.char_start[first + g + 1]):
            boxes[g, 0] = min(boxes[g, 0], gt.centres[c, 0])
            boxes[g, 1] = min(boxes[g, 1], gt.centres[c, 1])
            boxes[g, 2] = max(boxes[g, 2], gt.centres[c, 0])
            boxes[g, 3] = max(boxes[g, 3], gt.centres[c, 1])
    return boxes


@inner
def mark_hits(gt, g, det, d, hits, start):
    """Set ``hits[start + k]`` for each character k of word ``g`` that detection ``d`` contains; return how many."""
    count = 0
    style = det.style[d]
    ring = det.rings[det.ring_start[d] : det.ring_start[d + 1]]
    edges = det.edges[det.edge_start[d] : det.edge_end[d]]
    first = gt.char_start[g]
    for k in range(gt.char_start[g + 1] - first):
        x = gt.centres[first + k, 0]
        y = gt.centres[first + k, 1]
        inside = False
        if x >= det.bounds[d, 0] and x <= det.bounds[d, 2] and y >= det.bounds[d, 1] and y <= det.bounds[d, 3]:
            if style == TRUNCATED or style == TRUNCATED_POINTS:
                inside = contains_strictly(edges, x, y)
            else:
                inside = contains(ring, x, y)
        hits[start + k] = inside
        count += inside
    return count


@inner
def find_pairs(gt, gt_first, gt_last, det, det_first, det_last):
    """All pairs of one image that share area or a pseudo character.

    Returns:
        (pair_gt, pair_det, shared_area, hit_count, hit_start, hits): (M,) int64, int64, float64, int64, then
        (M + 1,) int64 and (H,) uint8. Indices count from the image's first word and detection.
    """
    n_gt = gt_last - gt_first
    n_det = det_last - det_first
    capacity = n_gt + n_det + 16
    pair_gt = np.empty(capacity, np.int64)
    pair_det = np.empty(capacity, np.int64)
    shared_area = np.empty(capacity)
    hit_count = np.empty(capacity, np.int64)
    hit_start = np.zeros(capacity + 1, np.int64)
    hits = np.empty(4 * capacity, np.uint8)
    size = 0
    if n_gt > 0 and n_det > 0:
        boxes = word_bounds(gt, gt_first, gt_last)
        order = spatial_order(boxes)
        tree, level_start = build_tree(boxes, order)
        stack = np.empty((8 * len(level_start) + 8, 2), np.int64)
        found = np.empty(n_gt, np.int64)
        for d in range(det_first, det_last):
            n_found = query_tree(tree, level_start, order, det.bounds[d], stack, found)
            sort_indices(found, n_found)
            edges = det.edges[det.edge_start[d] : det.edge_end[d]]
            for f in range(n_found):
                g = gt_first + found[f]
                if size == len(pair_gt):
                    pair_gt = longer(pair_gt, size + 1)
                    pair_det = longer(pair_det, size + 1)
                    shared_area = longer(shared_area, size + 1)
                    hit_count = longer(hit_count, size + 1)
                    hit_start = longer(hit_start, len(pair_gt) + 1)
                start = hit_start[size]
                length = gt.char_start[g + 1] - gt.char_start[g]
                if start + length > len(hits):
                    hits = longer(hits, start + length)
                area = overlap_area(gt.edges[gt.edge_start[g] : gt.edge_end[g]], edges, det.bounds[d, 1])
                count = mark_hits(gt, g, det, d, hits, start)
                if area > 0.0 or count > 0:
                    pair_gt[size] = found[f]
                    pair_det[size] = d - det_first
                    shared_area[size] = area
                    hit_count[size] = count
                    hit_start[size + 1] = start + length
                    size += 1
    return pair_gt[:size], pair_det[:size], shared_area[:size], hit_count[:size], hit_start[: size + 1], hits


@inner
def group_pairs(owner, n):
    """Pairs by owner: (start (n + 1,), pairs (M,)) int64, each owner's in the order they had."""
    start = np.zeros(n + 1, np.int64)
    for p in range(len(owner)):
        start[owner[p] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    at = start[:n].copy()
    grouped = np.empty(len(owner), np.int64)
    for p in range(len(owner)):
        grouped[at[owner[p]]] = p
        at[owner[p]] += 1
    return start, grouped


@inner
def area_precisions(gt, gt_first, region, ignored, det, det_first, pair_gt, pair_det, shared_area, in_float32):
    """ap (M,) float64 of each pair, ignored words reduced to their regions (n_gt,) int64 of the edge table."""
    ap = np.empty(len(pair_gt))
    for p in range(len(pair_gt)):
        g = pair_gt[p]
        d = det_first + pair_det[p]
        shared = shared_area[p]
        if ignored[g] and region[g] != gt_first + g:
            edges = gt.edges[gt.edge_start[region[g]] : gt.edge_end[region[g]]]
            shared = overlap_area(edges, det.edges[det.edge_start[d] : det.edge_end[d]], det.bounds[d, 1])
        ratio = shared / det.area[d] if det.area[d] > 0.0 else 0.0
        ap[p] = np.float32(ratio) if in_float32 else ratio
    return ap


@inner
def find_ignored_detections(ignored, order, gt_start, gt_pairs, pair_det, ap, hit_count, n_det, rules):
    """Which detections (n_det,) bool an ignored word takes out, alone or several together."""
    det_ignored = np.zeros(n_det, np.bool_)
    summed = np.zeros(n_det)
    threshold = rules.ap_float32_constraint if rules.in_float32 else rules.ap_constraint
    for t in range(len(order)):
        g = order[t]
        if not ignored[g]:
            continue
        for at in range(gt_start[g], gt_start[g + 1]):
            p = gt_pairs[at]
            d = pair_det[p]
            if hit_count[p] > 0:
                total = summed[d] + ap[p]
                summed[d] = np.float32(total) if rules.in_float32 else total
            reached = max(ap[p], summed[d])
            det_ignored[d] |= reached > threshold if rules.ignores_strictly else reached >= threshold
        if threshold <= 0.0 and not rules.ignores_strictly:
            det_ignored[:] = True  # even a word that shares nothing has an ap of 0
    return det_ignored


@inner
def relate(ignored, det_ignored, pair_gt, pair_det, ap, hit_count, rules):
    """The match relation M: bits (M,) uint8 of ONE_TO_ONE, SPLIT and MERGE for each pair, 0 outside M."""
    n_gt = len(ignored)
    n_det = len(det_ignored)
    threshold = rules.ap_float32_constraint if rules.in_float32 else rules.ap_constraint
    row_touches = np.zeros(n_gt, np.int64)
    row_valid_touches = np.zeros(n_gt, np.int64)
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
            row_valid_touches[g] += not det_ignored[d]
    relation = np.zeros(len(pair_gt), np.uint8)
    for p in range(len(pair_gt)):
        g = pair_gt[p]
        d = pair_det[p]
        if hit_count[p] == 0 or ignored[g] or det_ignored[d]:
            continue
        if ap[p] >= threshold:
            if row_touches[g] == 1 and column_touches[d] == 1:
                relation[p] |= ONE_TO_ONE
            if row_valid_touches[g] > 1:
                relation[p] |= SPLIT
        if column_words[d] > 1 and column_ap[d] >= rules.ap_constraint:
            relation[p] |= MERGE
    return relation
