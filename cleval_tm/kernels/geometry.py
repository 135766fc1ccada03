"""Rings: areas, overlaps, containment, crossings, minimum-area rectangles.

A ring is a closed sequence of points (P, 2) float64, its last point joined to its first. A region is a set
of edges, rows of a table (E, 6) float64: left x, y there, right x, y there, slope, sign. The sign is +1
or -1 such that the signed areas below a region's edges add up to its area; it is 0 for vertical edges, which
bound no area. Outer rings and holes are told apart by their signs alone.
"""

from __future__ import annotations

import math

import numpy as np

from cleval_tm.kernels._jit import Bytes, Floats, Ints, inner
from cleval_tm.kernels._machine import nonneg

SIGN = 5
EDGE_COLUMNS = 6


# Slices of arrays cost an atomic count each, which adds up in the hot loop: what runs there takes a whole array and
# the rows ``first`` to ``last`` of it.


@inner
def signed_area(points: Floats, first: int, last: int) -> float:
    """Shoelace sum of the ring in rows ``first`` to ``last``; positive where it turns from x to y."""
    total = 0.0
    x0 = points[nonneg(first), 0]
    y0 = points[nonneg(first), 1]
    for i in range(first + 1, last - 1):
        ax = points[nonneg(i), 0] - x0
        ay = points[nonneg(i), 1] - y0
        bx = points[nonneg(i + 1), 0] - x0
        by = points[nonneg(i + 1), 1] - y0
        total += ax * by - bx * ay
    return total / 2.0


@inner
def write_edges(points: Floats, first: int, last: int, orientation: float, edges: Floats, at: int) -> None:
    """Fill rows of ``edges`` (E, 6), from ``at`` on, with those of the ring in ``points``, rows ``first`` to ``last``.

    ``orientation`` has the sign of the ring's signed area, 0 for none.
    """
    sign = np.sign(orientation)
    xj = points[last - 1, 0]
    yj = points[last - 1, 1]
    for i in range(first, last):
        xi = points[nonneg(i), 0]
        yi = points[nonneg(i), 1]
        forward = xj <= xi
        x = xj if forward else xi
        y = yj if forward else yi
        x_end = xi if forward else xj
        y_end = yi if forward else yj
        slope = (y_end - y) / (x_end - x)
        edges[nonneg(at), 0] = x
        edges[nonneg(at), 1] = y
        edges[nonneg(at), 2] = x_end
        edges[nonneg(at), 3] = y_end
        edges[nonneg(at), 4] = slope if x < x_end else 0.0
        # Walking with the interior to the left, edges towards -x lie above the interior.
        edges[nonneg(at), 5] = (-sign if forward else sign) if x < x_end else 0.0
        at += 1
        xj = xi
        yj = yi


@inner
def overlap_area(edges_a: Floats, a0: int, a1: int, edges_b: Floats, b0: int, b1: int, base: float) -> float:
    """Area of the intersection of two regions, rows ``a0`` to ``a1`` and ``b0`` to ``b1`` of edges (E, 6).

    Below each pair of edges that share an x-range lies the common part of two trapezoids; with the product of
    the edges' signs, these add up to the intersection, whatever the regions' shapes. ``base`` is any y: it
    cancels, and near the data it keeps rounding small.
    """
    total = 0.0
    for i in range(a0, a1):
        sign_a = edges_a[nonneg(i), 5]
        if sign_a == 0.0:
            continue
        left_a = edges_a[nonneg(i), 0]
        right_a = edges_a[nonneg(i), 2]
        start_a = edges_a[nonneg(i), 1] - base
        slope_a = edges_a[nonneg(i), 4]
        for j in range(b0, b1):
            sign_b = edges_b[nonneg(j), 5]
            left_b = edges_b[nonneg(j), 0]
            left = max(left_a, left_b)
            right = min(right_a, edges_b[nonneg(j), 2])
            if right <= left or sign_b == 0.0:
                continue
            slope_b = edges_b[nonneg(j), 4]
            start_b = edges_b[nonneg(j), 1] - base
            y_a0 = start_a + slope_a * (left - left_a)
            y_a1 = start_a + slope_a * (right - left_a)
            y_b0 = start_b + slope_b * (left - left_b)
            y_b1 = start_b + slope_b * (right - left_b)
            gap0 = y_a0 - y_b0
            gap1 = y_a1 - y_b1
            area = (right - left) * (min(y_a0, y_b0) + min(y_a1, y_b1))
            if gap0 * gap1 < 0.0:  # the edges cross: the lower one changes on the way
                t = gap0 / (gap0 - gap1)
                middle = y_a0 + t * (y_a1 - y_a0)
                area = (right - left) * (
                    t * (min(y_a0, y_b0) + middle) + (1.0 - t) * (middle + min(y_a1, y_b1))
                )
            total += sign_a * sign_b * area
    return max(total / 2.0, 0.0)


@inner
def mark_contained(
    rings: Floats,
    first: int,
    last: int,
    points: Floats,
    first_point: int,
    last_point: int,
    inside: Bytes,
    start: int,
) -> int:
    """Set ``inside``, from ``start`` on, for the points (2, P) that a ring holds; return how many.

    Even-odd crossing test with half-open edges.
    """
    shift = start - first_point
    for p in range(first_point, last_point):
        inside[nonneg(shift + p)] = 0
    xj = rings[last - 1, 0]
    yj = rings[last - 1, 1]
    for i in range(first, last):
        xi = rings[nonneg(i), 0]
        yi = rings[nonneg(i), 1]
        if yi != yj:
            for p in range(first_point, last_point):
                y = points[1, nonneg(p)]
                # This order of operations decides for points on an edge.
                crosses = ((yi <= y) != (yj <= y)) & (
                    points[0, nonneg(p)] < (xj - xi) * (y - yi) / (yj - yi) + xi
                )
                inside[nonneg(shift + p)] ^= crosses
        xj = xi
        yj = yi
    count = 0
    for p in range(first_point, last_point):
        count += inside[nonneg(shift + p)]
    return count


@inner
def core_of(rings: Floats, first: int, last: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom between which all points are in a ring; of a quad in reading order, else nothing.

    One corner lies each way of such a point, so the ring goes round it. :func:`mark_contained` says the same: the point
    is further from the sides than rounding.
    """
    if last - first != 4:
        return np.inf, np.inf, -np.inf, -np.inf
    a, b, c, d = nonneg(first), nonneg(first + 1), nonneg(first + 2), nonneg(first + 3)
    rounding = 1e-12 * (abs(rings[a, 0]) + abs(rings[b, 0]) + abs(rings[c, 0]) + abs(rings[d, 0]))
    left = max(rings[a, 0], rings[d, 0]) + rounding
    right = min(rings[b, 0], rings[c, 0]) - rounding
    return left, max(rings[a, 1], rings[b, 1]), right, min(rings[c, 1], rings[d, 1])


@inner
def contains_strictly(edges: Floats, first: int, last: int, x: float, y: float) -> bool:
    """Whether the region in rows ``first`` to ``last`` holds the point and its border does not."""
    inside = False
    for i in range(first, last):
        x0 = edges[i, 0]
        y0 = edges[i, 1]
        x1 = edges[i, 2]
        y1 = edges[i, 3]
        if x < x0 or x > x1:
            continue
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if side == 0.0 and min(y0, y1) <= y and y <= max(y0, y1):
            return False
        if x < x1 and side < 0.0:
            inside = not inside
    return inside


@inner
def clip_convex(points: Floats, subject: int, clip: int, clipped: Floats) -> int:
    """Write the common part of two convex quads, whose first rows are given, to ``clipped``; return its corners.

    Each side of one cuts the other down to what lies inside of it (Sutherland and Hodgman).
    """
    size = 4
    for i in range(4):
        clipped[i, 0] = points[subject + i, 0]
        clipped[i, 1] = points[subject + i, 1]
    turning = 1.0 if signed_area(points, clip, clip + 4) > 0.0 else -1.0
    cut = np.empty((len(clipped), 2))
    for side in range(4):
        ax = points[clip + side, 0]
        ay = points[clip + side, 1]
        ex = points[clip + ((side + 1) & 3), 0] - ax
        ey = points[clip + ((side + 1) & 3), 1] - ay
        kept = 0
        for i in range(size):
            j = i + 1 if i + 1 < size else 0
            here = turning * (ex * (clipped[i, 1] - ay) - ey * (clipped[i, 0] - ax))
            there = turning * (ex * (clipped[j, 1] - ay) - ey * (clipped[j, 0] - ax))
            if here >= 0.0:
                cut[kept, 0] = clipped[i, 0]
                cut[kept, 1] = clipped[i, 1]
                kept += 1
            if (here > 0.0 and there < 0.0) or (here < 0.0 and there > 0.0):
                t = here / (here - there)
                cut[kept, 0] = clipped[i, 0] + t * (clipped[j, 0] - clipped[i, 0])
                cut[kept, 1] = clipped[i, 1] + t * (clipped[j, 1] - clipped[i, 1])
                kept += 1
        size = kept
        for i in range(size):
            clipped[i, 0] = cut[i, 0]
            clipped[i, 1] = cut[i, 1]
    return size


@inner
def turn(ax: float, ay: float, bx: float, by: float, cx: float, cy: float) -> float:
    """Twice the signed area of the triangle a, b, c."""
    return (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)


@inner
def segments_meet(p: Floats, q: Floats, r: Floats, s: Floats) -> bool:
    """Whether the closed segments p-q and r-s, each point (2,), have a point in common."""
    if max(p[0], q[0]) < min(r[0], s[0]) or max(r[0], s[0]) < min(p[0], q[0]):
        return False
    if max(p[1], q[1]) < min(r[1], s[1]) or max(r[1], s[1]) < min(p[1], q[1]):
        return False
    d1 = turn(p[0], p[1], q[0], q[1], r[0], r[1])
    d2 = turn(p[0], p[1], q[0], q[1], s[0], s[1])
    if (d1 > 0.0 and d2 > 0.0) or (d1 < 0.0 and d2 < 0.0):
        return False
    d3 = turn(r[0], r[1], s[0], s[1], p[0], p[1])
    d4 = turn(r[0], r[1], s[0], s[1], q[0], q[1])
    return not ((d3 > 0.0 and d4 > 0.0) or (d3 < 0.0 and d4 < 0.0))


@inner
def is_simple(ring: Floats) -> bool:
    """Whether no two edges of a ring (P, 2) without repeated neighbours meet, but neighbours in their corner."""
    n = len(ring)
    for i in range(n - 2):
        for j in range(i + 2, n):
            if i == 0 and j == n - 1:
                continue
            k = j + 1 if j + 1 < n else 0
            if segments_meet(ring[i], ring[i + 1], ring[j], ring[k]):
                return False
    return True


@inner
def sort_points(points: Floats, order: Ints) -> None:
    """Sort ``order`` (n,) int64 in place by y, then x, of points (P, 2): Shell's sort."""
    n = len(order)
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            moving = order[i]
            x = points[moving, 0]
            y = points[moving, 1]
            j = i
            while j >= gap:
                other = order[j - gap]
                if points[other, 1] < y or (points[other, 1] == y and points[other, 0] <= x):
                    break
                order[j] = other
                j -= gap
            order[j] = moving
        gap //= 3


@inner
def hull_of(points: Floats) -> Floats:
    """Convex hull of points (P, 2): its corners (H, 2), from the lowest y (then x) on towards +x, no three in line."""
    n = len(points)
    order = np.arange(n)
    sort_points(points, order)
    hull = np.empty((2 * n + 1, 2))
    size = 0
    for step in range(2 * n - 1):  # up along one side, down along the other
        at = order[step if step < n else 2 * n - 2 - step]
        if step == n:
            keep = size
        kept = 1 if step < n else keep
        while (
            size > kept
            and turn(
                hull[size - 2, 0],
                hull[size - 2, 1],
                hull[size - 1, 0],
                hull[size - 1, 1],
                points[at, 0],
                points[at, 1],
            )
            <= 0.0
        ):
            size -= 1
        hull[size, 0] = points[at, 0]
        hull[size, 1] = points[at, 1]
        size += 1
    if size > 1:
        size -= 1  # the walk ends where it began
    if size == 2 and hull[0, 0] == hull[1, 0] and hull[0, 1] == hull[1, 1]:
        size = 1
    return hull[:size]


@inner
def min_area_rectangle(points: Floats) -> tuple[float, float, float, float, float, float]:
    """Minimum-area rectangle of points (P, 2).

    Returns (width, height, ex, ey, u, v): sides along and across the direction (ex, ey) of the winning hull
    edge, and the least coordinates along both. The first edge with the strictly smallest area wins.
    """
    hull = hull_of(points)
    n = len(hull)
    best = (0.0, 0.0, 1.0, 0.0, hull[0, 0], hull[0, 1])
    best_area = np.inf
    for i in range(n if n > 1 else 0):
        j = i + 1 if i + 1 < n else 0
        dx = hull[j, 0] - hull[i, 0]
        dy = hull[j, 1] - hull[i, 1]
        length = math.sqrt(dx * dx + dy * dy)
        ex = dx / length
        ey = dy / length
        u0 = v0 = np.inf
        u1 = v1 = -np.inf
        for k in range(n):
            u = hull[k, 0] * ex + hull[k, 1] * ey
            v = hull[k, 0] * (-ey) + hull[k, 1] * ex
            u0 = min(u0, u)
            u1 = max(u1, u)
            v0 = min(v0, v)
            v1 = max(v1, v)
        area = (u1 - u0) * (v1 - v0)
        if area < best_area:
            best_area = area
            best = (u1 - u0, v1 - v0, ex, ey, u0, v0)
    return best
