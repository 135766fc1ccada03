"""What shapely does, once per shape and before the hot loop: rings that cross themselves, and words taken out.

A region is what the kernels see of such a shape: the edges of its outer rings and holes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.characters import POLYGON, SNAPPED, TRUNCATED, rectangle_aspects
from cleval_tm.kernels.measure import CROSSING, REGULAR, inspect_rings, measure_shapes, overlapping_words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Shapes:
    """The shapes of one side, measured, those in need of it repaired.

    Attributes:
        style: (S,) uint8, see :mod:`cleval_tm.kernels.characters`.
        rings, ring_start: the points (P, 2) float64 that areas and containment use; (S + 1,) int64.
        bounds: (S, 4) float64.
        area: (S,) float64.
        edges, edge_start, edge_end: (E, 6) float64; (regions,) int64. Region s is that of shape s.
        pseudo_length, false_positive_chars: (S,) int64.
        irregular: (S,) bool.
    """

    def __init__(
        self, points: Floats, ring_start: Ints, style: npt.NDArray[np.uint8], by_height: bool, cap: int
    ):
        self.style = style
        self.ring_start = ring_start
        (
            self.rings,
            self.edges,
            self.bounds,
            self.area,
            self.pseudo_length,
            self.false_positive_chars,
            state,
        ) = measure_shapes(points, ring_start, style, _aspects(points, ring_start, style), by_height, cap)
        self.edge_start: Ints = ring_start[:-1].copy()
        self.edge_end: Ints = ring_start[1:].copy()
        if state.any():
            inspect_rings(self.rings, ring_start, self.area, state)
            self._repair(np.flatnonzero(state == CROSSING).tolist())
        self.irregular: npt.NDArray[np.bool_] = state != REGULAR

    def add_regions(self, regions: Sequence[Any]) -> int:
        """Append the edges of shapely geometries; return the index of the first one's region."""
        first = len(self.edge_start)
        rings: list[Floats] = []
        holes: list[bool] = []
        rings_of_region = []
        for region in regions:
            before = len(rings)
            for part in _polygons(region):
                for number, ring in enumerate((part.exterior, *part.interiors)):
                    rings.append(np.asarray(ring.coords)[:-1, :2])
                    holes.append(number > 0)
            rings_of_region.append(len(rings) - before)
        ring_start = np.concatenate(([0], np.cumsum([len(ring) for ring in rings], dtype=np.int64)))
        points = np.concatenate(rings) if rings else np.empty((0, 2))
        style = np.full(len(rings), POLYGON, np.uint8)
        edges = measure_shapes(points, ring_start, style, np.zeros(len(rings)), False, 1)[1]
        edges[np.repeat(np.array(holes, bool), np.diff(ring_start)), -1] *= -1.0
        end = ring_start[np.cumsum(rings_of_region)] + len(self.edges)
        start = np.concatenate(([len(self.edges)], end[:-1]))
        self.edges = np.concatenate((self.edges, edges))
        self.edge_start = np.concatenate((self.edge_start, start))
        self.edge_end = np.concatenate((self.edge_end, end))
        return first

    def geometry(self, shape: int) -> Any:
        """The shape as a valid shapely geometry: even-odd, or as ``buffer(0)`` leaves it."""
        import shapely

        ring = self.rings[self.ring_start[shape] : self.ring_start[shape + 1]]
        if len(ring) < 3:
            return shapely.Polygon()
        polygon = shapely.Polygon(ring)
        if polygon.is_valid:
            return polygon
        return polygon.buffer(0) if self.style[shape] == TRUNCATED else _even_odd(ring)

    def _repair(self, crossing: list[int]) -> None:
        """Give rings that cross themselves the edges of the area that they enclose."""
        if not crossing:
            return
        geometries = [self.geometry(s) for s in crossing]
        first = self.add_regions(geometries)
        added = slice(first, first + len(crossing))
        self.edge_start[crossing] = self.edge_start[added]
        self.edge_end[crossing] = self.edge_end[added]
        for s, geometry in zip(crossing, geometries, strict=True):
            if self.style[s] == TRUNCATED:
                self.area[s] = geometry.area
        self.edge_start = self.edge_start[:first]
        self.edge_end = self.edge_end[:first]


def regions_of_ignored(shapes: Shapes, image_start: Ints, ignored: npt.NDArray[np.bool_]) -> Ints:
    """What is left of ignored words once the words that count are taken out of them.

    Args:
        shapes: the words' shapes; regions are added to it.
        image_start: (images + 1,) int64.
        ignored: (V, S) bool, for each view which words it ignores.

    Returns:
        (V, S) int64: each word's region in each view.
    """
    views, n = ignored.shape
    region: Ints = np.broadcast_to(np.arange(n), (views, n)).copy()
    if not ignored.any():
        return region
    hidden, overlapping = overlapping_words(
        image_start, np.any(ignored, axis=0), shapes.bounds, shapes.edges, shapes.edge_start, shapes.edge_end
    )
    takers: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for view in range(views):
        mask = ignored[view]
        here = mask[hidden] & ~mask[overlapping]
        others: dict[int, list[int]] = defaultdict(list)
        for g, other in zip(hidden[here].tolist(), overlapping[here].tolist(), strict=True):
            others[g].append(other)
        for g, words in others.items():
            takers[g, tuple(sorted(words))].append(view)
    if takers:
        import shapely

        left = [
            shapely.difference(shapes.geometry(g), shapely.union_all([shapes.geometry(w) for w in words]))
            for g, words in takers
        ]
        first = shapes.add_regions(left)
        for number, ((g, _), in_views) in enumerate(takers.items()):
            region[in_views, g] = first + number
    return region


def _aspects(points: Floats, ring_start: Ints, style: npt.NDArray[np.uint8]) -> Floats:
    """Aspects (S,) of minimum-area rectangles; zeros where no shape's style asks for them."""
    if (style == SNAPPED).any():
        return rectangle_aspects(points, ring_start)
    return np.zeros(len(style))


def _even_odd(ring: Floats) -> Any:
    """The points that a ring encloses an odd number of times, as a shapely geometry."""
    import shapely

    faces = shapely.get_parts(shapely.polygonize([shapely.union_all([shapely.LinearRing(ring)])]))
    inside = [face for face in faces if _crossings(ring, face.point_on_surface()) % 2]
    return shapely.union_all(inside)


def _crossings(ring: Floats, point: Any) -> int:
    """How many edges of the ring lie to the right of the point."""
    x, y = ring[:, 0], ring[:, 1]
    x1, y1 = np.roll(x, 1), np.roll(y, 1)
    spans = (y <= point.y) != (y1 <= point.y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (x1 - x) * (point.y - y) / (y1 - y) + x
    return int(np.count_nonzero(spans & (point.x < at)))


def _polygons(geometry: Any) -> list[Any]:
    """The polygons in a shapely geometry that have an area."""
    parts = getattr(geometry, "geoms", None)
    if parts is not None:
        return [polygon for part in parts for polygon in _polygons(part)]
    return [geometry] if geometry.geom_type == "Polygon" and geometry.area > 0.0 else []
