"""What shapely does, once per shape and before the hot loop: rings that cross themselves, and words taken out.

A region is what the kernels see of such a shape: the edges of its outer rings and holes.
"""

from __future__ import annotations

from collections import defaultdict
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.characters import POLYGON, SNAPPED, TRUNCATED, rectangle_aspects
from cleval_tm.kernels.geometry import SIGN
from cleval_tm.kernels.measure import (
    CROSSING,
    REGULAR,
    cut_quads,
    inspect_rings,
    measure_lengths,
    measure_shapes,
    overlapping_words,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Reduced = tuple[int, tuple[int, ...]]
"""A shape, and the shapes taken out of it."""

_FEW = 32
_GRID = 2.0**-30


class Shapes:
    """The shapes of one side, measured, those in need of it repaired.

    Attributes:
        style: (S,) uint8, see :mod:`cleval_tm.kernels.characters`.
        rings, ring_start: the points (P, 2) float64 that areas and containment use; (S + 1,) int64.
        bounds: (S, 4) float64.
        area: (S,) float64.
        edges, edge_start, edge_end: (E, 6) float64; (regions,) int64. Region s is that of shape s.
        rectangle_aspect: (S,) float64, zeros where no style asks for it.
        irregular: (S,) bool.
        convex_quad: (S,) bool.
    """

    def __init__(
        self, points: Floats, ring_start: Ints, style: npt.NDArray[np.uint8], by_height: bool, cap: int
    ):
        self.style = style
        self.ring_start = ring_start
        self.rectangle_aspect = _aspects(points, ring_start, style)
        self._length_options = (by_height, cap)
        self._points = points
        (
            self.rings,
            self.edges,
            self.bounds,
            self.area,
            state,
        ) = measure_shapes(points, ring_start, style)
        self.edge_start: Ints = ring_start[:-1].copy()
        self.edge_end: Ints = ring_start[1:].copy()
        self.convex_quad: npt.NDArray[np.bool_] = state == REGULAR
        if state.any():
            inspect_rings(self.rings, ring_start, self.area, state)
        self.irregular: npt.NDArray[np.bool_] = state != REGULAR
        self._repair(np.flatnonzero(state == CROSSING))

    def pseudo_lengths(self, asked: npt.NDArray[np.bool_]) -> Ints:
        """Pseudo lengths (S,) of the shapes asked for (S,), 0 for the others."""
        if not asked.any():
            return np.zeros(len(asked), np.int64)
        return measure_lengths(
            self._points, self.ring_start, self.style, self.rectangle_aspect, asked, *self._length_options
        )

    def add_regions(self, regions: npt.NDArray[Any]) -> int:
        """Append the edges of shapely geometries (R,); return the index of the first one's region."""
        import shapely

        first = len(self.edge_start)
        parts, region_of_part = shapely.get_parts(regions, return_index=True)
        areal = shapely.area(parts) > 0.0
        rings, part_of_ring = shapely.get_rings(parts[areal], return_index=True)
        is_hole = np.diff(part_of_ring, prepend=-1) == 0
        points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
        kept = np.diff(ring_of_point, append=-1) == 0  # the last point of each ring repeats its first
        points, ring_of_point = points[kept], ring_of_point[kept]
        ring_start = np.searchsorted(ring_of_point, np.arange(len(rings) + 1))
        style = np.full(len(rings), POLYGON, np.uint8)
        edges = measure_shapes(points, ring_start, style)[1]
        edges[is_hole[ring_of_point], SIGN] *= -1.0
        region_of_point = region_of_part[areal][part_of_ring][ring_of_point]
        bounds = len(self.edges) + np.searchsorted(region_of_point, np.arange(len(regions) + 1))
        self.edges = np.concatenate((self.edges, edges))
        self.edge_start = np.concatenate((self.edge_start, bounds[:-1]))
        self.edge_end = np.concatenate((self.edge_end, bounds[1:]))
        return first

    def add_cut_regions(self, wanted: list[Reduced]) -> dict[Reduced, int]:
        """Append what is left of convex quads once others, apart from one another, are cut out of them.

        Args:
            wanted: a shape, and the shapes to cut out of it; those that are not of this kind are passed over.

        Returns:
            the index of each one's region.
        """
        wanted = [(g, others) for g, others in wanted if self.convex_quad[[g, *others]].all()]
        if not wanted:
            return {}
        pairs = np.array([(g, other) for g, others in wanted for other in others])
        points, ring_start = cut_quads(self.rings, self.ring_start[pairs[:, 0]], self.ring_start[pairs[:, 1]])
        n = len(pairs)
        style = np.full(n, POLYGON, np.uint8)
        _, edges, bounds, *_ = measure_shapes(points, ring_start, style)
        edges[:, SIGN] *= -1.0
        added: list[Floats] = [self.edges]
        starts, ends = [], []
        regions: dict[Reduced, int] = {}
        size, pair = len(self.edges), 0
        for g, others in wanted:
            mine = slice(pair, pair + len(others))
            pair = mine.stop
            if len(others) > 1 and not _are_apart(bounds[mine]):
                continue
            parts = (
                self.edges[self.ring_start[g] : self.ring_start[g + 1]],
                edges[ring_start[mine.start] : ring_start[mine.stop]],
            )
            added += parts
            starts.append(size)
            size += sum(map(len, parts))
            ends.append(size)
            regions[g, others] = len(self.edge_start) + len(regions)
        self.edges = np.concatenate(added)
        self.edge_start = np.concatenate((self.edge_start, np.array(starts, np.int64)))
        self.edge_end = np.concatenate((self.edge_end, np.array(ends, np.int64)))
        return regions

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
        for at in np.flatnonzero(self.irregular[chosen] & ~shapely.is_valid(geometries)).tolist():
            ring = np.asarray(geometries[at].exterior.coords)[:-1]
            is_truncated = self.style[chosen[at]] == TRUNCATED
            geometries[at] = geometries[at].buffer(0) if is_truncated else _even_odd(ring)
        return geometries

    def _repair(self, crossing: Ints) -> None:
        """Give rings that cross themselves the edges of the area that they enclose."""
        if not len(crossing):
            return
        geometries = self.geometries(crossing)
        first = self.add_regions(geometries)
        self.edge_start[crossing] = self.edge_start[first:]
        self.edge_end[crossing] = self.edge_end[first:]
        self.edge_start = self.edge_start[:first]
        self.edge_end = self.edge_end[:first]
        truncated = self.style[crossing] == TRUNCATED
        self.area[crossing[truncated]] = [geometry.area for geometry in geometries[truncated]]


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
    takers: dict[Reduced, list[int]] = defaultdict(list)
    for view in range(views):
        mask = ignored[view]
        here = mask[hidden] & ~mask[overlapping]
        words_in: dict[int, list[int]] = defaultdict(list)
        for g, other in zip(hidden[here].tolist(), overlapping[here].tolist(), strict=True):
            words_in[g].append(other)
        for g, others in words_in.items():
            takers[g, tuple(sorted(others))].append(view)
    cut = shapes.add_cut_regions(list(takers))
    whole = [key for key in takers if key not in cut]
    if whole:
        words = np.unique([*(g for g, _ in whole), *(w for _, others in whole for w in others)])
        geometry = dict(zip(words.tolist(), shapes.geometries(words), strict=True))
        first = shapes.add_regions(
            np.array([_taken_out(geometry[g], [geometry[w] for w in others]) for g, others in whole], object)
        )
        cut |= dict(zip(whole, range(first, first + len(whole)), strict=True))
    for key, in_views in takers.items():
        region[in_views, key[0]] = cut[key]
    return region


def _are_apart(bounds: Floats) -> bool:
    """Whether no two of some bounding boxes (n, 4) share area."""
    meets = (bounds[:, np.newaxis, :2] < bounds[:, 2:]).all(axis=2)
    return int((meets & meets.T).sum()) <= len(bounds)


def _taken_out(word: Any, others: list[Any]) -> Any:
    """A shapely geometry without others.

    One after another: their union may lose one of two that share an edge but for its last bits (seen in GEOS
    3.14), unless it is snapped to a grid, which is what many of them get.
    """
    import shapely

    if len(others) <= _FEW:
        return reduce(shapely.difference, others, word)
    return shapely.difference(word, shapely.union_all(others, grid_size=_GRID))


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
