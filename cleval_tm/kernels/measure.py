"""What the hot loop wants to know of each shape, found once before it starts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner, kernel
from cleval_tm.kernels._machine import nonneg
from cleval_tm.kernels.characters import QUAD, SNAPPED, TRUNCATED_POINTS
from cleval_tm.kernels.geometry import (
    EDGE_COLUMNS,
    is_simple,
    min_area_rectangle,
    signed_area,
    write_edges,
)

ROUNDING = 1e-12
"""Share of a ring's bounding box below which its signed area is but rounding."""

BOX, CONVEX, SIMPLE, IRREGULAR, CROSSING, UNKNOWN, NOT_FINITE = range(7)
"""A shape's kind: an upright rectangle; another quad that turns one way; any other ring as it should be; odd, but its
edges tell its area; in need of repair before they do; not looked at; with a coordinate that is no finite number."""


class ShapeArrays(NamedTuple):
    """Shapes of many images; S shapes of P points, R regions of E edges."""

    image_start: Any  # (images + 1,) int64 first shape of each image
    points: Any  # (P, 2) float64, as given
    rings: Any  # (P, 2) float64, what areas and containment use
    ring_start: Any  # (S + 1,) int64
    style: Any  # (S,) uint8, see characters
    kind: Any  # (S,) uint8
    bounds: Any  # (S, 4) float64 left, top, right, bottom of the ring
    area: Any  # (S,) float64, its sign tells which way the ring turns
    rectangle_aspect: Any  # (S,) float64, zeros where no style asks for it
    region: Any  # (S,) int64 the region that a ring in need of repair encloses, -1 for the ring itself
    edges: Any  # (E, 6) float64, see geometry
    region_start: Any  # (R + 1,) int64


@inner
def turns_one_way(points: Floats, first: int) -> bool:
    """Whether the quad in four rows turns the same way, by more than nothing, in all its corners."""
    turns = 0
    for i in range(4):
        here = nonneg(first + i)
        j = nonneg(first + ((i + 1) & 3))
        k = nonneg(first + ((i + 2) & 3))
        dx = points[j, 0] - points[here, 0]
        dy = points[j, 1] - points[here, 1]
        cross = dx * (points[k, 1] - points[j, 1]) - dy * (points[k, 0] - points[j, 0])
        turns += int(cross > 0.0) - int(cross < 0.0)
    return turns == 4 or turns == -4


@inner
def is_upright(points: Floats, first: int) -> bool:
    """Whether the quad in four rows has sides along the axes alone, in turn."""
    a, b, c, d = nonneg(first), nonneg(first + 1), nonneg(first + 2), nonneg(first + 3)
    for axis in range(2):  # of the first side, then of the others
        other = 1 - axis
        if (
            points[a, axis] == points[b, axis]
            and points[c, axis] == points[d, axis]
            and points[a, other] == points[d, other]
            and points[b, other] == points[c, other]
        ):
            return True
    return False


@kernel
def snap_points(points: Floats, ring_start: Ints, style: Bytes, snapped: Floats) -> bool:
    """Truncate the points of shapes whose style asks for it.

    Args:
        points, ring_start, style: see :class:`ShapeArrays`.
        snapped: (P, 2) float64, filled with all points if some may change.

    Returns:
        whether some may. Most pages have whole numbers: then there is less to write and to read again.
    """
    some_snap = False
    for s in range(len(style)):
        some_snap |= style[s] == QUAD or style[s] == SNAPPED
    whole = True
    for i in range(len(points)):
        whole &= (points[i, 0] == np.trunc(points[i, 0])) & (points[i, 1] == np.trunc(points[i, 1]))
    if whole or not some_snap:
        return False
    for s in range(len(style)):
        snaps = style[s] == QUAD or style[s] == SNAPPED
        for i in range(ring_start[s], ring_start[s + 1]):
            for axis in range(2):
                snapped[i, axis] = np.trunc(points[i, axis]) if snaps else points[i, axis]
    return True


@kernel
def measure_shapes(
    rings: Floats, ring_start: Ints, style: Bytes, kind: Bytes, bounds: Floats, area: Floats, region: Ints
) -> int:
    """Measure many shapes.

    Args:
        rings, ring_start, style: see :class:`ShapeArrays`.
        kind, bounds, area: likewise, filled.
        region: likewise, filled with -1: no shape has one yet.

    Returns:
        the last of their kinds, in the order of their names; not every shape is looked at closely yet.
    """
    last_kind = BOX
    for s in range(len(style)):
        first = ring_start[s]
        last = ring_start[s + 1]
        region[s] = -1
        left = top = np.inf
        right = bottom = -np.inf
        nothing = 0.0
        for i in range(first, last):
            x = rings[nonneg(i), 0]
            y = rings[nonneg(i), 1]
            nothing += (x - x) + (y - y)
            left = min(left, x)
            right = max(right, x)
            top = min(top, y)
            bottom = max(bottom, y)
        bounds[s, 0] = left
        bounds[s, 1] = top
        bounds[s, 2] = right
        bounds[s, 3] = bottom
        if nothing != 0.0:
            last_kind = NOT_FINITE
            continue
        if style[s] == TRUNCATED_POINTS:
            area[s] = 0.0
            kind[s] = IRREGULAR
            last_kind = max(last_kind, IRREGULAR)
            continue
        signed = signed_area(rings, first, last)
        area[s] = signed if abs(signed) > ROUNDING * (right - left) * (bottom - top) else 0.0
        kind[s] = UNKNOWN
        if last - first == 4 and area[s] != 0.0:
            if is_upright(rings, first):
                kind[s] = BOX
            elif turns_one_way(rings, first):
                kind[s] = CONVEX
        last_kind = max(last_kind, int(kind[s]))
    return last_kind


@inner
def room_for_edges(ring_start: Ints, first: int, last: int) -> Floats:
    """Room for the edges of any one of the shapes ``first`` to ``last``."""
    longest = 0
    for s in range(first, last):
        longest = max(longest, ring_start[s + 1] - ring_start[s])
    return np.empty((longest, EDGE_COLUMNS))


@inner
def edges_of(shapes: ShapeArrays, s: int, room: Floats) -> tuple[Floats, int, int]:
    """A shape's edges: (table (E, 6), first row, last row). Those of its own ring are written to ``room``."""
    region = shapes.region[s]
    if region >= 0:
        return shapes.edges, shapes.region_start[region], shapes.region_start[region + 1]
    first = shapes.ring_start[s]
    last = shapes.ring_start[s + 1]
    write_edges(shapes.rings, first, last, shapes.area[s], room, 0)
    return room, 0, last - first


@kernel
def edges_of_rings(points: Floats, ring_start: Ints, is_hole: Bools) -> Floats:
    """The edges (P, 6) of rings (P, 2), one behind the other; those of holes take area away."""
    edges = np.empty((len(points), EDGE_COLUMNS))
    for s in range(len(is_hole)):
        first = ring_start[s]
        last = ring_start[s + 1]
        area = signed_area(points, first, last)
        write_edges(points, first, last, -area if is_hole[s] else area, edges, first)
    return edges


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
def inspect_rings(rings: Floats, ring_start: Ints, area: Floats, kind: Bytes) -> None:
    """Replace every UNKNOWN in ``kind`` by what the ring is.

    Args:
        rings: (P, 2) float64.
        ring_start: (S + 1,) int64.
        area: (S,) float64.
        kind: (S,) uint8, changed in place.
    """
    for s in range(len(kind)):
        if kind[s] != UNKNOWN:
            continue
        ring = rings[ring_start[s] : ring_start[s + 1]]
        distinct = without_repeats(ring)
        if len(distinct) > 3 and not is_simple(distinct):
            kind[s] = CROSSING
        elif len(distinct) < len(ring) or len(ring) < 3 or area[s] == 0.0:
            kind[s] = IRREGULAR
        else:
            kind[s] = SIMPLE


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
