"""What the hot loop wants to know of each shape, found once before it starts."""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner, kernel
from cleval_tm.kernels.candidates import build_tree, longer, query_tree, spatial_order
from cleval_tm.kernels.characters import QUAD, SNAPPED, TRUNCATED_POINTS, lengths_of
from cleval_tm.kernels.geometry import (
    EDGE_COLUMNS,
    clip_convex,
    is_simple,
    min_area_rectangle,
    overlap_area,
    signed_area,
    write_edges,
)

ROUNDING = 1e-12
"""Share of a ring's bounding box below which its signed area is but rounding."""

REGULAR, IRREGULAR, CROSSING, UNKNOWN = range(4)
"""A shape's state: as it should be; odd, but its edges tell its area; in need of repair before they do; not
looked at."""


@inner
def is_convex(points: Floats, first: int) -> bool:
    """Whether the quad in four rows turns the same way, by more than nothing, in all its corners."""
    turns = 0
    for i in range(4):
        j = first + ((i + 1) & 3)
        k = first + ((i + 2) & 3)
        dx = points[j, 0] - points[first + i, 0]
        dy = points[j, 1] - points[first + i, 1]
        cross = dx * (points[k, 1] - points[j, 1]) - dy * (points[k, 0] - points[j, 0])
        if cross > 0.0:
            turns += 1
        elif cross < 0.0:
            turns -= 1
    return turns == 4 or turns == -4


@kernel
def measure_shapes(
    points: Floats, ring_start: Ints, style: Bytes
) -> tuple[Floats, Floats, Floats, Floats, Bytes]:
    """Measure many shapes.

    Args:
        points: (P, 2) float64, the shapes' points as given, one ring behind the other.
        ring_start: (S + 1,) int64.
        style: (S,) uint8, see :mod:`cleval_tm.kernels.characters`.

    Returns:
        (rings, edges, bounds, area, state): the points of the rings that
        areas and containment use (P, 2) float64, their edges (P, 6) float64, (S, 4) float64 left, top, right,
        bottom of each ring, (S,) float64 its area >= 0, (S,) uint8 what was seen at once.
    """
    n = len(style)
    rings = np.empty(points.shape)
    edges = np.empty((len(points), EDGE_COLUMNS))
    bounds = np.empty((n, 4))
    area = np.empty(n)
    state = np.empty(n, np.uint8)
    for s in range(n):
        first = ring_start[s]
        last = ring_start[s + 1]
        snaps = style[s] == QUAD or style[s] == SNAPPED
        left = top = np.inf
        right = bottom = -np.inf
        for i in range(first, last):
            x = np.trunc(points[i, 0]) if snaps else points[i, 0]
            y = np.trunc(points[i, 1]) if snaps else points[i, 1]
            rings[i, 0] = x
            rings[i, 1] = y
            left = min(left, x)
            right = max(right, x)
            top = min(top, y)
            bottom = max(bottom, y)
        bounds[s, 0] = left
        bounds[s, 1] = top
        bounds[s, 2] = right
        bounds[s, 3] = bottom
        signed = 0.0 if style[s] == TRUNCATED_POINTS else signed_area(rings, first, last)
        if abs(signed) <= ROUNDING * (right - left) * (bottom - top):
            signed = 0.0
        write_edges(rings, first, last, np.sign(signed), edges)
        area[s] = abs(signed)
        if style[s] == TRUNCATED_POINTS:
            state[s] = IRREGULAR
        else:
            state[s] = REGULAR if last - first == 4 and is_convex(rings, first) else UNKNOWN
    return rings, edges, bounds, area, state


@kernel
def measure_lengths(
    points: Floats,
    ring_start: Ints,
    style: Bytes,
    rectangle_aspect: Floats,
    asked: Bools,
    by_height: bool,
    cap: int,
) -> Ints:
    """Pseudo lengths (S,) int64 of the shapes asked for (S,) bool, 0 for the others.

    Args:
        points, ring_start, style: as for :func:`measure_shapes`.
        rectangle_aspect: (S,) float64, looked at for the style SNAPPED alone.
        asked: (S,) bool.
        by_height: whether a false positive's characters follow height / width.
        cap: most pseudo characters of a shape.
    """
    lengths = np.zeros(len(style), np.int64)
    for s in range(len(style)):
        if asked[s]:
            lengths[s] = lengths_of(
                points, ring_start[s], ring_start[s + 1], style[s], rectangle_aspect[s], by_height, cap
            )[0]
    return lengths


@inner
def without_repeats(ring: Floats) -> Floats:
    """The ring (P, 2) without points that repeat their neighbour."""
    n = len(ring)
    kept = np.empty((n, 2))
    size = 0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        if ring[i, 0] != ring[j, 0] or ring[i, 1] != ring[j, 1]:
            kept[size, 0] = ring[i, 0]
            kept[size, 1] = ring[i, 1]
            size += 1
    return kept[:size]


@kernel
def inspect_rings(rings: Floats, ring_start: Ints, area: Floats, state: Bytes) -> None:
    """Replace every UNKNOWN in ``state`` by what the ring is.

    Args:
        rings: (P, 2) float64.
        ring_start: (S + 1,) int64.
        area: (S,) float64.
        state: (S,) uint8, changed in place.
    """
    for s in range(len(state)):
        if state[s] != UNKNOWN:
            continue
        ring = rings[ring_start[s] : ring_start[s + 1]]
        distinct = without_repeats(ring)
        if len(distinct) > 3 and not is_simple(distinct):
            state[s] = CROSSING
        elif len(distinct) < len(ring) or len(ring) < 3 or area[s] == 0.0:
            state[s] = IRREGULAR
        else:
            state[s] = REGULAR


@kernel
def shorter_sides(points: Floats, ring_start: Ints) -> Floats:
    """Shorter side (S,) float64 of each shape's minimum-area rectangle, its corners rounded to integers.

    Args:
        points: (P, 2) float64.
        ring_start: (S + 1,) int64.
    """
    n = len(ring_start) - 1
    sides = np.empty(n)
    for s in range(n):
        width, height, ex, ey, u, v = min_area_rectangle(points[ring_start[s] : ring_start[s + 1]])
        corners = np.empty((4, 2))
        for c in range(4):
            along = u + width if c == 1 or c == 2 else u
            across = v + height if c >= 2 else v
            # Through float32, so that a corner on .5 rounds as .5 whatever the last bits say.
            corners[c, 0] = np.rint(np.float32(along * ex - across * ey))
            corners[c, 1] = np.rint(np.float32(along * ey + across * ex))
        lengths = np.empty(4)
        for c in range(4):
            d = (c + 1) & 3
            dx = corners[d, 0] - corners[c, 0]
            dy = corners[d, 1] - corners[c, 1]
            lengths[c] = np.sqrt(dx * dx + dy * dy)
        sides[s] = min(lengths[0] + lengths[2], lengths[1] + lengths[3]) / 2.0
    return sides


@kernel
def overlapping_words(
    image_start: Ints, asked: Bools, bounds: Floats, edges: Floats, edge_start: Ints, edge_end: Ints
) -> tuple[Ints, Ints]:
    """The words that share area with those asked for.

    Args:
        image_start: (images + 1,) int64.
        asked: (S,) bool.
        bounds: (S, 4) float64.
        edges: (E, 6) float64.
        edge_start: (regions,) int64.
        edge_end: (regions,) int64.

    Returns:
        (word, other): (pairs,) int64 each, a word asked for and another of its image.
    """
    word = np.empty(16, np.int64)
    other = np.empty(16, np.int64)
    size = 0
    for image in range(len(image_start) - 1):
        first = image_start[image]
        n = image_start[image + 1] - first
        count = 0
        for g in range(first, first + n):
            count += asked[g]
        if count == 0 or n < 2:
            continue
        boxes = bounds[first : first + n]
        order = spatial_order(boxes)
        tree, level_start = build_tree(boxes, order)
        nodes = np.empty(n + 1, np.int64)
        found = np.empty(n + 1, np.int64)
        for g in range(first, first + n):
            if not asked[g]:
                continue
            n_found = query_tree(tree, level_start, order, bounds, g, nodes, found)
            for f in range(n_found):
                h = first + found[f]
                if h == g:
                    continue
                area = overlap_area(
                    edges, edge_start[g], edge_end[g], edges, edge_start[h], edge_end[h], bounds[g, 1]
                )
                if area > 0.0:
                    if size == len(word):
                        word = longer(word, size + 1)
                        other = longer(other, size + 1)
                    word[size] = g
                    other[size] = h
                    size += 1
    return word[:size], other[:size]


@kernel
def cut_quads(rings: Floats, subject: Ints, clip: Ints) -> tuple[Floats, Ints]:
    """Common parts of pairs of convex quads.

    Args:
        rings: (P, 2) float64.
        subject: (n,) int64, first rows of the quads.
        clip: (n,) int64, first rows of those that they are cut with.

    Returns:
        (points, ring_start): (Q, 2) float64, the common parts one behind the other, a point where there is none;
        (n + 1,) int64.
    """
    n = len(subject)
    points = np.empty((8 * n, 2))
    ring_start = np.zeros(n + 1, np.int64)
    clipped = np.empty((12, 2))
    at = 0
    for pair in range(n):
        for i in range(max(clip_convex(rings, subject[pair], clip[pair], clipped), 1)):
            points[at, 0] = clipped[i, 0]
            points[at, 1] = clipped[i, 1]
            at += 1
        ring_start[pair + 1] = at
    return points[:at], ring_start
