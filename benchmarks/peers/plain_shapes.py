"""One shape, plainly: its ring, its area, its pseudo characters, what it contains. See :mod:`plain`."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry import LineString, Point, Polygon
from shapely.ops import polygonize, unary_union

from cleval_tm.rules import CLEvalRules

EPS = 1e-5
EPS32 = float(np.finfo(np.float32).eps)
XY = tuple[float, float]


@dataclass
class Shape:
    """One word or detection, everything about it that does not depend on the other side."""

    points: list[XY]
    quad: bool
    rules: CLEvalRules
    text: list[str] | None = None
    ignored: bool = False
    label: Any = None
    ring: list[XY] = field(init=False)
    region: shapely.Geometry = field(init=False)
    area: float = field(init=False)
    irregular: bool = field(init=False)

    def __post_init__(self) -> None:
        style = self.rules.polygons
        if style == "v2020" and not self.quad and len(self.points) == 3:
            (x0, _), _, (_, y2) = self.points
            self.points = [*self.points, (x0, y2)]
        snapped = self.quad or style == "upstage"
        self.ring = [(float(int(x)), float(int(y))) for x, y in self.points] if snapped else self.points
        signed = shoelace(self.ring) if len(self.ring) >= 3 else 0.0
        self.irregular = is_irregular(self.ring, signed)
        if style == "v2020" and not self.quad:
            self.region = Polygon(self.ring).buffer(0) if len(self.ring) >= 3 else Polygon()
            self.area = self.region.area
        else:
            self.region = even_odd_region(self.ring)
            self.area = abs(signed)

    def aspect(self) -> float:
        """Width by height (of `upstage`: height by width of the minimum-area rectangle)."""
        if self.rules.polygons == "upstage":
            return upstage_aspect(self.points)
        if self.rules.polygons == "v2020" and not self.quad:
            return 1e-5  # that release's constant 1e5 is height by width
        hor, ver = sides(self.points)
        return (hor + EPS) / (ver + EPS)

    def pseudo_length(self) -> int:
        a = self.aspect()
        if self.rules.polygons == "upstage":
            return min(round(0.5 + max(a, 1 / (a + EPS32))), self.rules.pseudo_length_cap)
        return min(round(0.5 + max(a, 1 / a)), self.rules.pseudo_length_cap)

    def false_positive_chars(self) -> int:
        a = self.aspect()
        if self.rules.polygons == "upstage":
            value = 1 / (EPS32 + a)
        elif self.rules.polygons == "v2020" and not self.quad:
            value = 1 / (EPS + 1e5)
        elif self.rules.aspect_by_height:
            hor, ver = sides(self.points)
            value = 1 / (EPS + (ver + EPS) / (hor + EPS))
        else:
            value = 1 / (EPS + a)
        return min(round(0.5 + value), self.rules.pseudo_length_cap)

    def centres(self) -> list[XY]:
        """Pseudo character centres."""
        n = len(self.text or ())
        if n == 0:
            return []
        if self.quad:
            return self._quad_centres(n)
        points = self.points
        if self.rules.polygons == "v2020" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            points = [(x0, y0), (x1, y1), (x1, y0), (x0, y1)]
        elif self.rules.polygons == "v2020" and len(points) == 1:
            x, y = points[0]
            points = [(x, y), (x, x), (x, x), (x, x)]
        return polygon_centres(points, n, truncated=self.rules.polygons != "v2023")

    def _quad_centres(self, n: int) -> list[XY]:
        p0, p1, p2, p3 = self.points
        threshold = self.rules.vertical_aspect_ratio_thresh
        if self.rules.aspect_by_height:
            hor, ver = sides(self.points)
            vertical = (ver + EPS) / (hor + EPS) >= 1 / threshold
        else:
            vertical = self.aspect() < threshold
        first, last = (mid(p3, p2), mid(p0, p1)) if vertical else (mid(p0, p3), mid(p1, p2))
        ux, uy = (last[0] - first[0]) / n, (last[1] - first[1]) / n
        return [(first[0] + ux / 2 + ux * i, first[1] + uy / 2 + uy * i) for i in range(n)]

    def contains(self, point: XY) -> bool:
        if self.rules.polygons == "v2020" and not self.quad:
            return bool(self.region.contains(Point(point)))
        return odd_crossings(self.ring, point)


def mid(p: XY, q: XY) -> XY:
    return (p[0] + q[0]) / 2, (p[1] + q[1]) / 2


def distance(p: XY, q: XY) -> float:
    return math.sqrt((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2)


def length(line: list[XY]) -> float:
    return sum(distance(p, q) for p, q in itertools.pairwise(line))


def sides(points: list[XY]) -> tuple[float, float]:
    """Mean width and mean height of a shape whose points run along the top, then back along the bottom."""
    half = len(points) // 2
    top, bottom = points[:half], points[half:]
    if not top:
        return 0.0, 0.0
    return (
        (length(top) + length(bottom)) / 2,
        (distance(bottom[0], top[-1]) + distance(bottom[-1], top[0])) / 2,
    )


def polygon_centres(points: list[XY], n: int, *, truncated: bool) -> list[XY]:
    half = len(points) // 2
    if half == 0:
        return [points[0]] * n
    top = divided(points[:half], half - 1, n, truncated)
    bottom = divided(points[half:][::-1], half - 1, n, truncated)
    step = ((half - 1) * n) / n
    centres = []
    for i in range(n):
        start, end = int(i * step), int((i + 1) * step)
        corners = (top[start], top[end], bottom[start], bottom[end])
        centres.append((sum(x for x, _ in corners) / 4, sum(y for _, y in corners) / 4))
    return centres


def divided(line: list[XY], sections: int, n: int, truncated: bool) -> list[XY]:
    """The first `sections` sections of a polyline in n parts each; the line's last point ends them."""
    result: list[XY] = []
    for (ax, ay), (bx, by) in itertools.pairwise(line[: sections + 1]):
        result.append((ax, ay))
        for m in range(1, n):
            x, y = ax + (bx - ax) / n * m, ay + (by - ay) / n * m
            result.append((int(x), int(y)) if truncated else (x, y))
    result.append(line[-1])
    return result


def shoelace(ring: list[XY]) -> float:
    """Signed area."""
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(ring, ring[1:] + ring[:1], strict=True)) / 2


def odd_crossings(ring: list[XY], point: XY) -> bool:
    """Whether a ray from the point crosses the ring an odd number of times; edges are half open."""
    x, y = point
    inside = False
    for i, (xi, yi) in enumerate(ring):
        xj, yj = ring[i - 1]
        if ((yi <= y < yj) or (yj <= y < yi)) and x < (xj - xi) * (y - yi) / (yj - yi) + xi:
            inside = not inside
    return inside


def even_odd_region(ring: list[XY]) -> shapely.Geometry:
    """What a ring encloses by the even-odd rule, however it crosses itself."""
    if len(set(ring)) < 3:
        return Polygon()
    whole = Polygon(ring)
    if whole.is_valid:
        return whole
    faces = polygonize(unary_union(LineString([*ring, ring[0]])))
    return unary_union([face for face in faces if odd_crossings(ring, face.representative_point().coords[0])])


def is_irregular(ring: list[XY], signed_area: float) -> bool:
    return len(set(ring)) < max(3, len(ring)) or signed_area == 0 or not Polygon(ring).is_valid


def convex_hull(points: list[XY]) -> list[XY]:
    """Hull vertices from the one of smallest y, then smallest x, on towards +x; none between two others."""
    ordered = sorted(set(points), key=lambda p: (p[1], p[0]))
    if len(ordered) < 3:
        return ordered
    chains = []
    for run in (ordered, ordered[::-1]):
        chain: list[XY] = []
        for p in run:
            while len(chain) >= 2 and cross(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    return chains[0] + chains[1]


def cross(o: XY, p: XY, q: XY) -> float:
    return (p[0] - o[0]) * (q[1] - o[1]) - (p[1] - o[1]) * (q[0] - o[0])


def upstage_aspect(points: list[XY]) -> float:
    """Height by width of the minimum-area rectangle: of the first hull edge with the smallest product."""
    rounded = np.rint(np.asarray(points, dtype=np.float64))
    if (np.ptp(rounded, axis=0) == 0).any():
        return 0.0
    hull = convex_hull(points)
    best = (math.inf, 0.0, 0.0)
    for p, q in zip(hull, hull[1:] + hull[:1], strict=True):
        dx, dy = q[0] - p[0], q[1] - p[1]
        norm = math.sqrt(dx * dx + dy * dy)
        ex, ey = dx / norm, dy / norm
        u = [x * ex + y * ey for x, y in hull]
        v = [x * -ey + y * ex for x, y in hull]
        w, h = max(u) - min(u), max(v) - min(v)
        if w * h < best[0]:
            best = (w * h, w, h)
    return min(100.0, best[2] / (best[1] + EPS32))


def scale(points: list[XY], image_size: tuple[float, float]) -> float:
    """Shorter side of the minimum-area rectangle, its corners rounded, by the image's longer side.

    Directions stay unnormalised until the last division, so that a corner on .5 is exactly that.
    """
    hull = convex_hull(points)
    smallest, corners = math.inf, [hull[0]] * 4
    for p, q in zip(hull, hull[1:] + hull[:1], strict=True):
        dx, dy = q[0] - p[0], q[1] - p[1]
        square = dx * dx + dy * dy
        if square == 0:
            continue
        u = [x * dx + y * dy for x, y in hull]
        v = [y * dx - x * dy for x, y in hull]
        area = (max(u) - min(u)) * (max(v) - min(v)) / square
        if area < smallest:
            smallest = area
            ends = ((min(u), min(v)), (max(u), min(v)), (max(u), max(v)), (min(u), max(v)))
            corners = [((a * dx - b * dy) / square, (a * dy + b * dx) / square) for a, b in ends]
    c0, c1, c2, c3 = [(float(np.around(x)), float(np.around(y))) for x, y in corners]
    shorter = min(distance(c0, c1) + distance(c2, c3), distance(c1, c2) + distance(c3, c0)) / 2
    return shorter / max(image_size)
