"""Which words and detections of an image belong together: pairs, area precision, ignored detections, the match.

A pair is a word and a detection. Lists of an image's M pairs run in parallel, by detection, then by word; words and
detections are counted from their image's first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner
from cleval_tm.kernels._machine import nonneg
from cleval_tm.kernels.characters import TRUNCATED, TRUNCATED_POINTS
from cleval_tm.kernels.geometry import contains_strictly, core_of, mark_contained, overlap_area, write_edges
from cleval_tm.kernels.measure import BOX, IRREGULAR, ShapeArrays, edges_of, room_for_edges

ONE_TO_ONE, SPLIT, MERGE = 1, 2, 4
"""Bits of a pair's relation."""


class Words(NamedTuple):
    """Ground truth of many images; S words, C pseudo characters, V views.

    A view is one way of ignoring words: the first is the plain one, the others are scale bins.
    """

    shapes: ShapeArrays
    char_start: Any  # (S + 1,) int64
    centres: Any  # (2, C) float64, x and y
    letters: Any  # int32, see letters.read_texts
    letter_start: Any  # (S + 1,) int64
    label: Any  # (S,) int64 orientation, -1 without one; or none at all
    ignored: Any  # (V, S) bool
    ever_ignored: Any  # (S,) bool, in some view
    remainder: Any  # (V, S) int64 the region that is left of an ignored word, -1 for the whole word; or none
    order: (
        Any  # (V, S) int64, the order in which an image's words are walked, counted from its first; or none
    )


class Detections(NamedTuple):
    """Detections of many images; S detections."""

    shapes: ShapeArrays
    letters: Any  # int32
    letter_start: Any  # (S + 1,) int64
    label: Any  # (S,) int64, or none at all


GT, DET, HIT_COUNT, HIT_START = range(4)
"""Columns of a table of pairs."""


class Pairs(NamedTuple):
    """The pairs of an image; the first M rows count."""

    rows: Any  # (room + 1, 4) int64 word, detection, characters of the word in the detection, the first of its hits
    shared_area: Any  # (room,) float64
    hits: Any  # uint8, whether the detection contains the word's character; those of a pair end where the next start


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
def find_pairs(
    words: Words,
    gt_first: int,
    gt_last: int,
    detections: Detections,
    det_first: int,
    det_last: int,
    found_start: Ints,
    found_first: int,
    found: Ints,
    enough: float,
    whole: bool,
) -> tuple[int, Pairs]:
    """The pairs of an image that matter: those that share a pseudo character, or an ignored word's area.

    Args:
        words, gt_first, gt_last: :class:`Words`, and which of them are the image's.
        detections, det_first, det_last: likewise.
        found_start, found: see :func:`~cleval_tm.kernels.candidates.find_candidates`; ``found_first`` is the first
            detection that they tell of.
        enough: of a word that is never ignored, any area precision from this on says as much as another: the least
            that it can be, told by the boxes alone, is taken instead if it is as much.
        whole: find all pairs that share area, and their true area precision.

    Returns:
        how many there are, and :class:`Pairs`.
    """
    ever_ignored = words.ever_ignored
    char_start = words.char_start
    centres = words.centres
    gt_rings = words.shapes.rings
    gt_ring_start = words.shapes.ring_start
    gt_kind = words.shapes.kind
    gt_bounds = words.shapes.bounds
    gt_area = words.shapes.area
    gt_region = words.shapes.region
    gt_edges = words.shapes.edges
    gt_region_start = words.shapes.region_start
    rings = detections.shapes.rings
    ring_start = detections.shapes.ring_start
    style = detections.shapes.style
    kind = detections.shapes.kind
    bounds = detections.shapes.bounds
    det_area = detections.shapes.area
    region = detections.shapes.region
    det_edges = detections.shapes.edges
    region_start = detections.shapes.region_start
    n_hits = 0
    first_found = found_start[det_first - found_first]
    last_found = found_start[det_last - found_first]
    for f in range(first_found, last_found):
        n_hits += char_start[gt_first + found[f] + 1] - char_start[gt_first + found[f]]
    rows = np.empty((last_found - first_found + 1, 4), np.int64)
    shared_area = np.empty(last_found - first_found)
    hits = np.empty(n_hits, np.uint8)
    own_gt_edges = room_for_edges(gt_ring_start, gt_first, gt_last)
    own_edges = room_for_edges(ring_start, det_first, det_last)
    rows[0, HIT_START] = 0
    size = 0
    for d in range(det_first, det_last):
        det = nonneg(d)
        left = bounds[det, 0]
        top = bounds[det, 1]
        right = bounds[det, 2]
        bottom = bounds[det, 3]
        is_open = style[det] == TRUNCATED or style[det] == TRUNCATED_POINTS
        is_box = kind[det] == BOX and not is_open
        # Of a box, left and top belong to it, right and bottom do not. Others are looked at more closely below.
        x_end = right if is_box else right + 1.0
        y_end = bottom if is_box else bottom + 1.0
        # Of all characters in a box, and of those in the core of another closed ring, nothing more is to be asked.
        core_left, core_top, core_right, core_bottom = -np.inf, -np.inf, np.inf, np.inf
        if not is_box:
            end = ring_start[d] if is_open else ring_start[d + 1]
            core_left, core_top, core_right, core_bottom = core_of(rings, ring_start[d], end)
        edges = own_edges
        first_edge = 0
        last_edge = ring_start[d + 1] - ring_start[d]
        if region[det] >= 0:
            edges = det_edges
            first_edge = region_start[region[d]]
            last_edge = region_start[region[d] + 1]
        edges_known = region[det] >= 0
        if is_open and not edges_known:
            write_edges(rings, ring_start[d], ring_start[d + 1], det_area[det], own_edges, 0)
            edges_known = True
        for f in range(found_start[d - found_first], found_start[d - found_first + 1]):
            g = gt_first + found[f]
            word = nonneg(g)
            at = nonneg(size)
            start = rows[at, HIT_START]
            first_char = char_start[word]
            count = 0
            sure = 0
            for k in range(char_start[g + 1] - first_char):
                x = centres[0, nonneg(first_char + k)]
                y = centres[1, nonneg(first_char + k)]
                inside = (x >= left) & (y >= top) & (x < x_end) & (y < y_end)
                hits[nonneg(start + k)] = inside
                count += inside
                sure += (x > core_left) & (y > core_top) & (x < core_right) & (y < core_bottom)
            if count > sure:
                if is_open:
                    count = 0
                    for c in range(first_char, char_start[g + 1]):
                        if hits[start + c - first_char]:
                            inside = contains_strictly(
                                edges, first_edge, last_edge, centres[0, c], centres[1, c]
                            )
                            hits[start + c - first_char] = inside
                            count += inside
                else:
                    count = mark_contained(
                        rings,
                        ring_start[d],
                        ring_start[d + 1],
                        centres,
                        first_char,
                        char_start[g + 1],
                        hits,
                        start,
                    )
            if count == 0 and not (whole or ever_ignored[word]):
                continue
            least = 0.0
            if not (whole or ever_ignored[word]) and gt_kind[word] < IRREGULAR and kind[det] < IRREGULAR:
                # both areas less than that of a box around both; a little less, so that rounding cannot make it more
                width = max(right, gt_bounds[word, 2]) - min(left, gt_bounds[word, 0])
                height = max(bottom, gt_bounds[word, 3]) - min(top, gt_bounds[word, 1])
                least = abs(gt_area[word]) + abs(det_area[det]) - (1.0 + 1e-9) * width * height
            if least > 0.0 and least >= enough * abs(det_area[det]):
                area = least
            elif gt_kind[word] == BOX and kind[det] == BOX:
                width = min(right, gt_bounds[word, 2]) - max(left, gt_bounds[word, 0])
                height = min(bottom, gt_bounds[word, 3]) - max(top, gt_bounds[word, 1])
                area = width * height if width > 0.0 and height > 0.0 else 0.0
            else:
                if not edges_known:
                    write_edges(rings, ring_start[d], ring_start[d + 1], det_area[det], own_edges, 0)
                    edges_known = True
                if gt_region[word] >= 0:
                    first_row = gt_region_start[gt_region[word]]
                    last_row = gt_region_start[gt_region[word] + 1]
                    area = overlap_area(gt_edges, first_row, last_row, edges, first_edge, last_edge, top)
                else:
                    last_row = gt_ring_start[g + 1] - gt_ring_start[g]
                    write_edges(
                        gt_rings, gt_ring_start[g], gt_ring_start[g + 1], gt_area[word], own_gt_edges, 0
                    )
                    area = overlap_area(own_gt_edges, 0, last_row, edges, first_edge, last_edge, top)
            if area > 0.0 or count > 0:
                rows[at, GT] = found[f]
                rows[at, DET] = d - det_first
                rows[at, HIT_COUNT] = count
                shared_area[at] = area
                size += 1
                rows[size, HIT_START] = start + char_start[g + 1] - first_char
    return size, Pairs(rows, shared_area, hits)


@inner
def group_pairs(rows: Ints, size: int, n: int) -> tuple[Ints, Ints]:
    """The first ``size`` pairs by word: (start (n + 1,), pairs (size,)) int64, each word's in the order they had."""
    start = np.zeros(n + 1, np.int64)
    for p in range(size):
        start[rows[p, GT] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    at = start[:n].copy()
    grouped = np.empty(size, np.int64)
    for p in range(size):
        grouped[at[rows[p, GT]]] = p
        at[rows[p, GT]] += 1
    return start, grouped


@inner
def area_precisions(
    words: Words,
    view: int,
    gt_first: int,
    detections: Detections,
    det_first: int,
    pairs: Pairs,
    size: int,
    in_float32: bool,
) -> Floats:
    """Area precision (size,) float64 of an image's pairs in one view; rounded to float32 if asked."""
    remainder = words.remainder
    area = detections.shapes.area
    rows = pairs.rows
    shared_area = pairs.shared_area
    ap = np.empty(size)
    for p in range(size):
        d = det_first + rows[p, DET]
        shared = shared_area[p]
        left_over = remainder[view, gt_first + rows[p, GT]] if len(remainder) else -1
        if left_over >= 0:
            shapes = detections.shapes
            edges, first, last = edges_of(shapes, d, room_for_edges(shapes.ring_start, d, d + 1))
            starts = words.shapes.region_start
            shared = overlap_area(
                words.shapes.edges,
                starts[left_over],
                starts[left_over + 1],
                edges,
                first,
                last,
                shapes.bounds[d, 1],
            )
        ratio = shared / abs(area[nonneg(d)]) if area[nonneg(d)] != 0.0 else 0.0
        ap[p] = np.float32(ratio) if in_float32 else ratio
    return ap


@inner
def ignored_detections(
    ignored: Bools,
    order: Ints,
    view: int,
    gt_first: int,
    n_det: int,
    pairs: Pairs,
    size: int,
    ap: Floats,
    threshold: float,
    in_float32: bool,
    ignores_strictly: bool,
) -> Bytes:
    """Which detections (n_det,) of an image an ignored word takes out, alone or several together.

    Args:
        ignored: (n_gt,) bool.
        order: (V, S) int64 of all words, ``view`` and ``gt_first`` tell which are the image's.
    """
    rows = pairs.rows
    taken_out = np.zeros(n_det, np.uint8)
    ignores = False
    for g in range(len(ignored)):
        ignores |= ignored[g]
    if not ignores:
        return taken_out
    if threshold <= 0.0 and not ignores_strictly:
        for d in range(n_det):  # even a word that shares nothing has an ap of 0
            taken_out[d] = 1
        return taken_out
    summed = np.zeros(n_det)
    gt_start, gt_pairs = group_pairs(rows, size, len(ignored))
    for t in range(len(ignored)):
        g = order[view, gt_first + t] if len(order) else t
        if not ignored[g]:
            continue
        for at in range(gt_start[g], gt_start[g + 1]):
            p = gt_pairs[at]
            d = rows[p, DET]
            if rows[p, HIT_COUNT] > 0:
                total = summed[d] + ap[p]
                summed[d] = np.float32(total) if in_float32 else total
            reached = max(ap[p], summed[d])
            if reached > threshold or (reached == threshold and not ignores_strictly):
                taken_out[d] = 1
    return taken_out


@inner
def relate(
    ignored: Bools,
    det_ignored: Bytes,
    pairs: Pairs,
    size: int,
    ap: Floats,
    threshold: float,
    merge_threshold: float,
) -> Bytes:
    """The match relation (size,) uint8 of an image's pairs: bits of ONE_TO_ONE, SPLIT and MERGE."""
    rows = pairs.rows
    n_det = len(det_ignored)
    row_touches = np.zeros(len(ignored), np.int64)
    row_valid_touches = np.zeros(len(ignored), np.int64)
    column_touches = np.zeros(n_det, np.int64)
    column_words = np.zeros(n_det, np.int64)
    column_ap = np.zeros(n_det)
    for p in range(size):
        if rows[p, HIT_COUNT] == 0:
            continue
        g = nonneg(rows[p, GT])
        d = nonneg(rows[p, DET])
        if not ignored[g]:
            column_words[d] += 1
            column_ap[d] += ap[p]
        if ap[p] >= threshold:
            row_touches[g] += 1
            column_touches[d] += 1
            if not det_ignored[d]:
                row_valid_touches[g] += 1
    relation = np.zeros(size, np.uint8)
    for p in range(size):
        g = nonneg(rows[p, GT])
        d = nonneg(rows[p, DET])
        if rows[p, HIT_COUNT] > 0 and not ignored[g] and not det_ignored[d]:
            found = 0
            if ap[p] >= threshold:
                if row_touches[g] == 1 and column_touches[d] == 1:
                    found |= ONE_TO_ONE
                if row_valid_touches[g] > 1:
                    found |= SPLIT
            if column_words[d] > 1 and column_ap[d] >= merge_threshold:
                found |= MERGE
            relation[p] = found
    return relation
