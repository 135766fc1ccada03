"""What shapely does, once per shape and before the hot loop: rings that cross themselves, and words taken out.

A region is what the kernels see of such a shape: the edges of its outer rings and holes.
"""

from __future__ import annotations

from collections import defaultdict
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.characters import SNAPPED, TRUNCATED, pseudo_lengths, rectangle_aspects
from cleval_tm.kernels.geometry import EDGE_COLUMNS
from cleval_tm.kernels.measure import (
    CONVEX,
    CROSSING,
    IRREGULAR,
    NOT_FINITE,
    ShapeArrays,
    edges_of_rings,
    inspect_rings,
    measure_shapes,
    snap_points,
)
from cleval_tm.kernels.remainders import take_out_words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Reduced = tuple[int, tuple[int, ...]]
"""A shape, and the shapes taken out of it."""

_NO_EDGES: Floats = np.empty((0, EDGE_COLUMNS))
_NO_REGIONS: Ints = np.zeros(1, np.int64)
_FEW = 32
_GRID = 2.0**-30


class Shapes:
    """The shapes of one side, measured, those in need of it repaired.

    Args:
        image_start: (images + 1,) int64 first shape of each image.
        points, ring_start: the points as given (P, 2) float64, one shape's behind the other's; (S + 1,) int64.
        style: (S,) uint8, see :mod:`cleval_tm.kernels.characters`.

    Attributes:
        finite: whether all coordinates are finite numbers. If not, the rest is of no use.
    """

    def __init__(
        self, image_start: Ints, points: Floats, ring_start: Ints, style: npt.NDArray[np.uint8]
    ) -> None:
        self.image_start = image_start
        self.points = points
        self.ring_start = ring_start
        self.style = style
        n = len(style)
        rings = np.empty(points.shape)
        self.rings = rings if snap_points(points, ring_start, style, rings) else points
        self.kind = np.empty(n, np.uint8)
        self.bounds = np.empty((n, 4))
        self.area = np.empty(n)
        # A rule set reads all shapes as snapped polygons, or none.
        self.rectangle_aspect = (
            rectangle_aspects(points, ring_start) if n and style[0] == SNAPPED else np.zeros(n)
        )
        self.region = np.empty(n, np.int64)
        self.edges, self.region_start = _NO_EDGES, _NO_REGIONS
        worst = measure_shapes(self.rings, ring_start, style, self.kind, self.bounds, self.area, self.region)
        self.finite = worst != NOT_FINITE
        if self.finite and worst > CONVEX:
            inspect_rings(self.rings, ring_start, self.area, self.kind)
            self._repair(np.flatnonzero(self.kind == CROSSING))

    def arrays(self, image_start: Ints | None = None) -> ShapeArrays:
        """What the kernels see of the shapes, or of those of some images in a row, with absolute numbers."""
        return ShapeArrays(
            self.image_start if image_start is None else image_start,
            self.points,
            self.rings,
            self.ring_start,
            self.style,
            self.kind,
            self.bounds,
            self.area,
            self.rectangle_aspect,
            self.region,
            self.edges,
            self.region_start,
        )

    def pseudo_lengths(self, asked: Ints, by_height: bool, cap: int) -> Ints:
        """Pseudo lengths (n,) of some shapes (n,)."""
        return pseudo_lengths(
            self.points, self.ring_start, self.style, self.rectangle_aspect, asked, by_height, cap
        )

    def add_regions(self, edges: Floats, region_start: Ints) -> int:
        """Append regions, by their edges (E, 6) and where each one's start (R + 1,); return the first one's index."""
        first = len(self.region_start) - 1
        self.region_start = np.concatenate((self.region_start, region_start[1:] + len(self.edges)))
        self.edges = np.concatenate((self.edges, edges))
        return first

    def add_geometries(self, geometries: npt.NDArray[Any]) -> int:
        """Append shapely geometries (R,) as regions; return the first one's index."""
        import shapely

        parts, region_of_part = shapely.get_parts(geometries, return_index=True)
        areal = shapely.area(parts) > 0.0
        rings, part_of_ring = shapely.get_rings(parts[areal], return_index=True)
        is_hole = np.diff(part_of_ring, prepend=-1) == 0
        points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
        kept = np.diff(ring_of_point, append=-1) == 0  # the last point of each ring repeats its first
        points, ring_of_point = points[kept], ring_of_point[kept]
        ring_start = np.searchsorted(ring_of_point, np.arange(len(rings) + 1))
        region_of_point = region_of_part[areal][part_of_ring][ring_of_point]
        return self.add_regions(
            edges_of_rings(points, ring_start, is_hole),
            np.searchsorted(region_of_point, np.arange(len(geometries) + 1)),
        )

    def geometries(self, chosen: Ints) -> npt.NDArray[Any]:
        """Shapes (n,) as valid shapely geometries: even-odd, or as ``buffer(0)`` leaves them."""
        import shapely

        sizes = self.ring_start[chosen + 1] - self.ring_start[chosen]
        geometries = np.full(len(chosen), shapely.Polygon(), object)
        areal = np.flatnonzero(sizes >= 3)
        points = [self.rings[self.ring_start[s] : self.ring_start[s + 1]] for s in chosen[areal].tolist()]
        if points:
            rings = shapely.linearrings(
                np.concatenate(points), indices=np.repeat(np.arange(len(areal)), sizes[areal])
            )
            geometries[areal] = shapely.polygons(rings)
        for at in np.flatnonzero((self.kind[chosen] >= IRREGULAR) & ~shapely.is_valid(geometries)).tolist():
            ring = np.asarray(geometries[at].exterior.coords)[:-1]
            is_truncated = self.style[chosen[at]] == TRUNCATED
            geometries[at] = geometries[at].buffer(0) if is_truncated else _even_odd(ring)
        return geometries

    def _repair(self, crossing: Ints) -> None:
        """Give rings that cross themselves the edges of the area that they enclose."""
        if not len(crossing):
            return
        geometries = self.geometries(crossing)
        self.region[crossing] = self.add_geometries(geometries) + np.arange(len(crossing))
        truncated = self.style[crossing] == TRUNCATED
        self.area[crossing[truncated]] = [geometry.area for geometry in geometries[truncated]]


def remainders_of_ignored(shapes: Shapes, ignored: npt.NDArray[np.bool_]) -> Ints:
    """What is left of ignored words once the words that count are taken out of them.

    Args:
        shapes: the words' shapes; regions are added to it.
        ignored: (V, S) bool, for each view which words it ignores.

    Returns:
        (V, S) int64: the region that is left of each word that loses area in a view, -1 for the others.
    """
    remainder = np.empty(ignored.shape, np.int64)
    edges, region_start, hard = take_out_words(
        shapes.arrays(), ignored, remainder, len(shapes.region_start) - 1
    )
    if len(region_start) > 1:
        shapes.add_regions(edges, region_start)
    takers: dict[Reduced, list[int]] = defaultdict(list)
    left_to_do = iter(hard.tolist())
    for view in left_to_do:
        word, n = next(left_to_do), next(left_to_do)
        takers[word, tuple(islice(left_to_do, n))].append(view)
    if takers:
        chosen = np.unique([w for word, mine in takers for w in (word, *mine)])
        geometry = dict(zip(chosen.tolist(), shapes.geometries(chosen), strict=True))
        left = [_taken_out(geometry[word], [geometry[w] for w in mine]) for word, mine in takers]
        first = shapes.add_geometries(np.array(left, object))
        for region, ((word, _), in_views) in enumerate(takers.items(), first):
            remainder[in_views, word] = region
    return remainder


def _taken_out(word: Any, others: list[Any]) -> Any:
    """A shapely geometry without others.

    One after another: their union may lose one of two that share an edge but for its last bits (seen in GEOS
    3.14), unless it is snapped to a grid, which is what many of them get.
    """
    import shapely

    if len(others) <= _FEW:
        return reduce(shapely.difference, others, word)
    return shapely.difference(word, shapely.union_all(others, grid_size=_GRID))


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
