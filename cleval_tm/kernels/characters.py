"""What a shape says of its characters: aspect ratio, pseudo length, pseudo character centres.

A shape's style tells how its points are read:

====================  ================================================================================
``QUAD``              4 points in reading order, snapped to integers for areas and containment
``POLYGON``           top, then bottom in reverse; the quad's rule generalised, no snapping
``TRUNCATED``         a polygon whose inner division points are truncated; open containment
``TRUNCATED_POINTS``  the same of fewer than 3 points: it has pseudo characters, but no area
``SNAPPED``           a polygon, snapped, truncated divisions, aspect of its minimum-area rectangle
====================  ================================================================================
"""

from __future__ import annotations

import math

import numpy as np

from cleval_tm.kernels._jit import Bools, Bytes, Floats, Ints, inner, kernel
from cleval_tm.kernels._machine import nonneg
from cleval_tm.kernels.geometry import min_area_rectangle

QUAD, POLYGON, TRUNCATED, TRUNCATED_POINTS, SNAPPED = range(5)
CONSTANT_ASPECT = 1e5
SMALLEST = 1e-5
FLOAT32_EPS = float(np.finfo(np.float32).eps)
SNAPPED_ASPECT_CAP = 100.0


@inner
def distance(points: Floats, i: int, j: int) -> float:
    dx = points[nonneg(j), 0] - points[nonneg(i), 0]
    dy = points[nonneg(j), 1] - points[nonneg(i), 1]
    return math.sqrt(dx * dx + dy * dy)


@inner
def quad_like_aspect(points: Floats, first: int, last: int) -> tuple[float, float]:
    """(hor + 1e-5) / (ver + 1e-5) of rows ``first`` to ``last``, and its reciprocal by the same smoothing."""
    bottom = first + (last - first) // 2
    hor = 0.0
    for i in range(first, last - 1):
        if i != bottom - 1:
            hor += distance(points, i, i + 1)
    ver = 0.0
    if bottom > first:
        ver = distance(points, bottom - 1, bottom)
    ver += distance(points, first, last - 1)
    hor = hor / 2.0 + SMALLEST
    ver = ver / 2.0 + SMALLEST
    return hor / ver, ver / hor


@kernel
def rectangle_aspects(points: Floats, ring_start: Ints) -> Floats:
    """height / width of the minimum-area rectangle of each shape, at most 100; 0 without extent.

    Args:
        points: (P, 2) float64, the shapes' points as given, one ring behind the other.
        ring_start: (S + 1,) int64.

    Returns:
        (S,) float64.
    """
    n = len(ring_start) - 1
    aspects = np.zeros(n)
    for s in range(n):
        shape = points[ring_start[s] : ring_start[s + 1]]
        x0 = y0 = np.inf
        x1 = y1 = -np.inf
        for i in range(len(shape)):
            x = np.rint(shape[i, 0])
            y = np.rint(shape[i, 1])
            x0 = min(x0, x)
            x1 = max(x1, x)
            y0 = min(y0, y)
            y1 = max(y1, y)
        if x0 < x1 and y0 < y1:
            width, height, _, _, _, _ = min_area_rectangle(shape)
            aspects[s] = min(SNAPPED_ASPECT_CAP, height / (width + FLOAT32_EPS))
    return aspects


@inner
def lengths_of(
    points: Floats, first: int, last: int, style: int, rectangle_aspect: float, by_height: bool, cap: int
) -> tuple[int, int]:
    """(pseudo length, characters of a false positive) of one shape; the aspect is for the style SNAPPED alone."""
    if style == SNAPPED:
        aspect = rectangle_aspect
        reciprocal = 1.0 / (aspect + FLOAT32_EPS)
        false_positive = reciprocal
    else:
        aspect = reciprocal = CONSTANT_ASPECT
        if style in (QUAD, POLYGON):
            aspect, reciprocal = quad_like_aspect(points, first, last)
        false_positive = 1.0 / (SMALLEST + (reciprocal if by_height else aspect))
        reciprocal = 1.0 / aspect
    pseudo_length = np.rint(0.5 + max(aspect, reciprocal))
    return int(min(pseudo_length, cap)), int(min(np.rint(0.5 + false_positive), cap))


@inner
def is_surely_wide(points: Floats, first: int, by_height: bool, threshold: float) -> bool:
    """Whether the quad in four rows is not vertical, as can be told without a square root: of most it can.

    A side is no shorter than along x, and no longer than along x and y together.
    """
    a, b, c, d = nonneg(first), nonneg(first + 1), nonneg(first + 2), nonneg(first + 3)
    hor = abs(points[b, 0] - points[a, 0]) + abs(points[d, 0] - points[c, 0])
    ver = abs(points[d, 0] - points[a, 0]) + abs(points[d, 1] - points[a, 1])
    ver += abs(points[c, 0] - points[b, 0]) + abs(points[c, 1] - points[b, 1])
    least, most = (threshold * hor, ver) if by_height else (hor, threshold * ver)
    wide: bool = least > 1.001 * most + 1e-3 * (1.0 + threshold)
    return wide


@inner
def place_on_quad(points: Floats, first: int, start: int, end: int, vertical: bool, centres: Floats) -> None:
    """Fill columns ``start`` to ``end`` of ``centres`` (2, C) with the centres of the quad in four rows."""
    # Vertical text: the corners are taken one step round.
    left, other_left, right, other_right = (3, 2, 0, 1) if vertical else (0, 3, 1, 2)
    a, b = nonneg(first + left), nonneg(first + other_left)
    c, d = nonneg(first + right), nonneg(first + other_right)
    for axis in range(2):
        begin = (points[a, axis] + points[b, axis]) / 2.0
        step = ((points[c, axis] + points[d, axis]) / 2.0 - begin) / (end - start)
        origin = begin + step / 2.0
        for i in range(end - start):
            centres[axis, nonneg(start + i)] = origin + step * i


@inner
def division_point(
    points: Floats, first: int, towards: int, division: int, count: int, axis: int, truncate: bool
) -> float:
    """Coordinate of a division point of the half that starts at ``first``, ``count`` of them a section."""
    at = first + towards * (division // count)
    part = division % count
    value: float = points[at, axis]
    if part > 0:
        value = value + (points[at + towards, axis] - value) / count * part
        if truncate:
            value = np.trunc(value)
    return value


@inner
def place_on_polygon(
    points: Floats, first: int, last: int, start: int, end: int, truncate: bool, centres: Floats
) -> None:
    """Fill columns ``start`` to ``end`` of ``centres`` (2, C) with those of the polygon in rows ``first`` to ``last``.

    Each is the mean of the division points before and behind the character, at the top and at the bottom.
    """
    n = last - first
    count = end - start
    sections = max(n // 2 - 1, 0)
    divisions = sections * count
    for i in range(count):
        for axis in range(2):
            total = 0.0
            for half in range(2):  # the top onwards, then the bottom backwards
                begin, stop, towards = (0, sections, 1) if half == 0 else (n - 1, n // 2, -1)
                for side in range(2):
                    division = (i + side) * sections
                    if division == divisions:
                        total += points[first + stop, axis]
                    else:
                        total += division_point(
                            points, first + begin, towards, division, count, axis, truncate
                        )
            centres[axis, start + i] = total / 4.0


@kernel
def place_characters(
    points: Floats,
    ring_start: Ints,
    style: Bytes,
    rectangle_aspect: Floats,
    letter_start: Ints,
    is_pseudo: Bools,
    first_word: int,
    by_height: bool,
    vertical_threshold: float,
    cap: int,
) -> tuple[Ints, Floats]:
    """Pseudo characters of words.

    Args:
        points: (P, 2) float64, the shapes' points as given, one ring behind the other.
        ring_start: (S + 1,) int64.
        style: (S,) uint8.
        rectangle_aspect: (S,) float64, looked at for the style SNAPPED alone.
        letter_start: (S + 1,) int64, see :func:`~cleval_tm.kernels.letters.read_texts`.
        is_pseudo: (S,) bool, which shapes have characters by their pseudo length instead.
        first_word: the first shape that is a word; those before it have no pseudo characters.
        by_height: whether vertical text is told by height / width.
        vertical_threshold: width / height below which a quad is vertical; or height / width from which it is.
        cap: most pseudo characters of a shape.

    Returns:
        (char_start, centres): (S + 1,) int64; (2, C) float64, x and y.
    """
    n = len(style)
    char_start = np.zeros(n + 1, np.int64)
    for s in range(first_word, n):
        count = letter_start[s + 1] - letter_start[s] - 1
        if is_pseudo[s]:
            count = lengths_of(
                points, ring_start[s], ring_start[s + 1], style[s], rectangle_aspect[s], by_height, cap
            )[0]
        char_start[s + 1] = char_start[s] + count
    centres = np.empty((2, char_start[n]))
    for s in range(first_word, n):
        start = char_start[s]
        end = char_start[s + 1]
        if start == end:
            continue
        first = ring_start[s]
        if style[s] == QUAD:
            vertical = False
            if not is_surely_wide(points, first, by_height, vertical_threshold):
                aspect, reciprocal = quad_like_aspect(points, first, first + 4)
                vertical = reciprocal >= vertical_threshold if by_height else aspect < vertical_threshold
            place_on_quad(points, first, start, end, vertical, centres)
        else:
            place_on_polygon(points, first, ring_start[s + 1], start, end, style[s] >= TRUNCATED, centres)
    return char_start, centres


@kernel
def pseudo_lengths(
    points: Floats,
    ring_start: Ints,
    style: Bytes,
    rectangle_aspect: Floats,
    asked: Ints,
    by_height: bool,
    cap: int,
) -> Ints:
    """Pseudo lengths (n,) int64 of the shapes ``asked`` for (n,); the rest as for :func:`place_characters`."""
    lengths = np.empty(len(asked), np.int64)
    for i in range(len(asked)):
        s = asked[i]
        lengths[i] = lengths_of(
            points, ring_start[s], ring_start[s + 1], style[s], rectangle_aspect[s], by_height, cap
        )[0]
    return lengths
