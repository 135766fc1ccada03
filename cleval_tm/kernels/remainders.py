"""What is left of ignored words once the words that count are taken out of them."""

from __future__ import annotations

import numpy as np

from cleval_tm.kernels._jit import Bools, Floats, Ints, inner, kernel
from cleval_tm.kernels.candidates import asked_for, build_tree, longer, query_tree
from cleval_tm.kernels.geometry import EDGE_COLUMNS, clip_convex, overlap_area, signed_area, write_edges
from cleval_tm.kernels.measure import CONVEX, ShapeArrays, edges_of, room_for_edges

CORNERS = 8
"""Most corners of the common part of two convex quads."""


@inner
def boxes_meet(a: Floats, i: int, b: Floats, j: int) -> bool:
    """Whether two rows of bounding boxes share area."""
    meets: bool = a[i, 0] < b[j, 2] and b[j, 0] < a[i, 2] and a[i, 1] < b[j, 3] and b[j, 1] < a[i, 3]
    return meets


@inner
def longer_table(edges: Floats, size: int) -> Floats:
    """A copy of ``edges`` (E, 6) with room for at least ``size``."""
    grown = np.empty((max(size, 2 * len(edges)), EDGE_COLUMNS))
    for i in range(len(edges)):
        for column in range(EDGE_COLUMNS):
            grown[i, column] = edges[i, column]
    return grown


@inner
def cut_out(
    shapes: ShapeArrays, g: int, others: Ints, n: int, parts: Floats, bounds: Floats, sizes: Ints
) -> None:
    """Cut n convex words with the convex word ``g``.

    Args:
        parts: (8 n, 6), filled with the edges of what they have in common, in 8 rows each, their signs turned.
        bounds: (n, 4), filled with what that spans.
        sizes: (n,), filled with how many edges it has.
    """
    corners = np.empty((CORNERS + 4, 2))
    for i in range(n):
        size = clip_convex(shapes.rings, shapes.ring_start[g], shapes.ring_start[others[i]], corners)
        left = top = np.inf
        right = bottom = -np.inf
        for corner in range(size):
            left = min(left, corners[corner, 0])
            top = min(top, corners[corner, 1])
            right = max(right, corners[corner, 0])
            bottom = max(bottom, corners[corner, 1])
        bounds[i, 0] = left
        bounds[i, 1] = top
        bounds[i, 2] = right
        bounds[i, 3] = bottom
        if size > 0:
            write_edges(corners, 0, size, -signed_area(corners, 0, size), parts, CORNERS * i)
        sizes[i] = size


@kernel
def take_out_words(
    shapes: ShapeArrays, ignored: Bools, remainder: Ints, first_region: int
) -> tuple[Floats, Ints, Ints]:
    """Take the words that count out of the ignored ones that they overlap.

    Args:
        shapes: the words' :class:`~cleval_tm.kernels.measure.ShapeArrays`.
        ignored: (V, S) bool.
        remainder: (V, S) int64, filled: for each ignored word that others overlap the region that is left of it, else
            -1.
        first_region: the number of the first of these regions.

    Returns:
        (edges, region_start, hard): the regions' edges (E, 6) float64; (R + 1,) int64. Then what is not done here, as
        shapes are not convex or the words in one overlap each other, int64: view, word, how many words are to be taken
        out of it, and these; one behind the other.
    """
    views = len(ignored)
    bounds = shapes.bounds
    kind = shapes.kind
    for view in range(views):
        for g in range(ignored.shape[1]):
            remainder[view, g] = -1
    edges = np.empty((16, EDGE_COLUMNS))
    region_start = np.zeros(2, np.int64)
    regions = 0
    hard = np.empty(16, np.int64)
    n_hard = 0
    for image in range(len(shapes.image_start) - 1):
        first = shapes.image_start[image]
        last = shapes.image_start[image + 1]
        some_ignored = False
        for view in range(views):
            for g in range(first, last):
                some_ignored |= ignored[view, g]
        if not some_ignored:
            continue
        tree, level_start, indices, grid = build_tree(bounds[first:last])
        nodes = np.empty(last - first, np.int64)
        found = np.empty(last - first, np.int64)
        others = np.empty(last - first, np.int64)
        place = np.full(last - first, -1)  # where each word stands in ``others``
        room = room_for_edges(shapes.ring_start, first, last)
        other_room = np.empty_like(room)
        for g in range(first, last):
            ever_ignored = False
            for view in range(views):
                ever_ignored |= ignored[view, g]
            if not ever_ignored:
                continue
            asked = asked_for(bounds[g, 0], bounds[g, 1], bounds[g, 2], bounds[g, 3], grid)
            n = 0
            convex = kind[g] <= CONVEX
            g_edges, g_first, g_last = edges_of(shapes, g, room)
            for f in range(query_tree(tree, level_start, indices, asked, nodes, found)):
                h = first + found[f]
                if h == g:
                    continue
                h_edges, h_first, h_last = edges_of(shapes, h, other_room)
                if overlap_area(g_edges, g_first, g_last, h_edges, h_first, h_last, bounds[g, 1]) > 0.0:
                    others[n] = h
                    place[h - first] = n
                    n += 1
                    convex &= kind[h] <= CONVEX
            if n == 0:
                continue
            parts = np.empty((CORNERS * n if convex else 0, EDGE_COLUMNS))
            part_bounds = np.empty((n, 4))
            part_sizes = np.empty(n, np.int64)
            if convex:
                cut_out(shapes, g, others, n, parts, part_bounds, part_sizes)
            for view in range(views):
                if not ignored[view, g]:
                    continue
                n_valid = 0
                n_edges = 0
                apart = convex
                for i in range(n):
                    if ignored[view, others[i]]:
                        continue
                    n_valid += 1
                    if not apart:
                        continue
                    n_edges += part_sizes[i]
                    box = asked_for(
                        part_bounds[i, 0], part_bounds[i, 1], part_bounds[i, 2], part_bounds[i, 3], grid
                    )
                    for f in range(query_tree(tree, level_start, indices, box, nodes, found)):
                        j = place[found[f]]
                        if (
                            j > i
                            and not ignored[view, others[j]]
                            and boxes_meet(part_bounds, i, part_bounds, j)
                        ):
                            apart = False
                if n_valid == 0:
                    continue
                if not apart:
                    if n_hard + 3 + n_valid > len(hard):
                        hard = longer(hard, n_hard + 3 + n_valid)
                    hard[n_hard] = view
                    hard[n_hard + 1] = g
                    hard[n_hard + 2] = n_valid
                    n_hard += 3
                    for i in range(n):
                        if not ignored[view, others[i]]:
                            hard[n_hard] = others[i]
                            n_hard += 1
                    continue
                at = region_start[regions]
                if at + n_edges + g_last - g_first > len(edges):
                    edges = longer_table(edges, at + n_edges + g_last - g_first)
                if regions + 2 > len(region_start):
                    region_start = longer(region_start, regions + 2)
                for row in range(g_first, g_last):
                    for column in range(EDGE_COLUMNS):
                        edges[at, column] = g_edges[row, column]
                    at += 1
                for i in range(n):
                    if not ignored[view, others[i]]:
                        for row in range(CORNERS * i, CORNERS * i + part_sizes[i]):
                            for column in range(EDGE_COLUMNS):
                                edges[at, column] = parts[row, column]
                            at += 1
                remainder[view, g] = first_region + regions
                regions += 1
                region_start[regions] = at
            for i in range(n):
                place[others[i] - first] = -1
    return edges[: region_start[regions]], region_start[: regions + 1], hard[:n_hard]
