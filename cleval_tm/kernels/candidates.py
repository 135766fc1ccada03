"""Which boxes meet: a packed tree over bounding boxes, so that work follows the overlaps, not the product.

A box is one integer of four fields, each of 14 bits and a guard bit: left, top, and how far right and bottom are from
the far end, in cells of a grid over the page. A box meets what is asked for (right, bottom, and how far left and top
are from the far end) where none of its fields is larger: one subtraction for all four, after which the guard bit is
gone where a field was. Cells keep the order of coordinates, so no box that meets is missed; some that do not are found
too, which the caller must tell apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels._jit import Bools, Floats, Ints, inner, kernel
from cleval_tm.kernels._machine import lowest_bit, nonneg

FANOUT = 64
"""Boxes below one of the next level: a bit each of an integer. Levels but the top are filled up with boxes that meet
nothing, so that all of them are compared at once, without a branch."""
TOP = 16
"""Most boxes of the top level, which are looked at one by one."""
UNSORTED = 256
"""Up to so many boxes stay in the order in which they come in any case."""
SCATTERED = 4
"""So many times the page is what boxes around groups cover together where the order is no help."""
BITS = 14
FIELD = BITS + 1
LAST_CELL = (1 << BITS) - 1
ONES = 1 | (1 << FIELD) | (1 << 2 * FIELD) | (1 << 3 * FIELD)
GUARDS = ONES << BITS
FIELDS = GUARDS - ONES
NOWHERE = GUARDS
DIGIT = 7
"""Bits that one pass of the radix sort looks at; four passes sort the 28 bits of a place in Z-order."""


@inner
def grid_of(boxes: Floats) -> tuple[float, float, float, float]:
    """Origin and cells per pixel (x, y, x scale, y scale) of a grid over boxes (n, 4); empty boxes do not count."""
    x0 = y0 = np.inf
    x1 = y1 = -np.inf
    for i in range(len(boxes)):
        x0 = min(x0, boxes[i, 0])
        y0 = min(y0, boxes[i, 1])
        x1 = max(x1, boxes[i, 2])
        y1 = max(y1, boxes[i, 3])
    return x0, y0, (LAST_CELL / (x1 - x0) if x1 > x0 else 0.0), (LAST_CELL / (y1 - y0) if y1 > y0 else 0.0)


@inner
def cell_of(value: float, start: float, scale: float) -> int:
    """The cell of a coordinate; what is off the grid is in its first or its last."""
    place = (value - start) * scale
    return int(min(place, float(LAST_CELL))) if place > 0.0 else 0


@inner
def pack(first: int, second: int, third: int, fourth: int) -> int:
    return first | (second << FIELD) | (third << 2 * FIELD) | (fourth << 3 * FIELD)


@inner
def not_larger(box: int, asked: int) -> int:
    """The guard bits of those fields of ``box`` that are not larger than ``asked``'s."""
    return ((asked | GUARDS) - box) & GUARDS


@inner
def around(a: int, b: int) -> int:
    """The box around two boxes: the lesser of each field."""
    guards = not_larger(a, b)
    fields = guards - (guards >> BITS)
    return (a & fields) | (b & (FIELDS ^ fields))


@inner
def asked_for(
    left: float, top: float, right: float, bottom: float, grid: tuple[float, float, float, float]
) -> int:
    """What boxes that meet this one are compared with."""
    x0, y0, x_scale, y_scale = grid
    return pack(
        cell_of(right, x0, x_scale),
        cell_of(bottom, y0, y_scale),
        LAST_CELL - cell_of(left, x0, x_scale),
        LAST_CELL - cell_of(top, y0, y_scale),
    )


@inner
def spread(value: int) -> int:
    """The low 16 bits of ``value``, a zero between each two."""
    value = (value | (value << 8)) & 0x00FF00FF
    value = (value | (value << 4)) & 0x0F0F0F0F
    value = (value | (value << 2)) & 0x33333333
    return (value | (value << 1)) & 0x55555555


@inner
def sort_by_place(packed: Ints, indices: Ints, n: int) -> tuple[Ints, Ints]:
    """Sort packed boxes and their indices, n of each, such that neighbours in the list are neighbours on the page.

    By the places of their middles in Z-order.
    """
    keys = np.empty(n, np.int64)
    for i in range(n):
        box = packed[i]
        x = ((box & LAST_CELL) + LAST_CELL - ((box >> 2 * FIELD) & LAST_CELL)) >> 1
        y = (((box >> FIELD) & LAST_CELL) + LAST_CELL - (box >> 3 * FIELD)) >> 1
        keys[i] = spread(x) | (spread(y) << 1)
    order = np.arange(n)
    moved = np.empty(n, np.int64)
    starts = np.empty((1 << DIGIT) + 1, np.int64)
    for shift in range(0, 2 * BITS, DIGIT):
        for digit in range(len(starts)):
            starts[digit] = 0
        for i in range(n):
            starts[((keys[i] >> shift) & ((1 << DIGIT) - 1)) + 1] += 1
        for digit in range(1 << DIGIT):
            starts[digit + 1] += starts[digit]
        for at in range(n):
            i = order[at]
            digit = (keys[i] >> shift) & ((1 << DIGIT) - 1)
            moved[starts[digit]] = i
            starts[digit] += 1
        order, moved = moved, order
    for at in range(n):
        moved[at] = packed[order[at]]
        keys[at] = indices[order[at]]
    return moved, keys


@inner
def around_group(packed: Ints, group: int, n: int) -> int:
    """The box around a group of n packed boxes."""
    first = FANOUT * group
    box: int = packed[first]
    for at in range(first + 1, min(first + FANOUT, n)):
        box = around(box, packed[at])
    return box


@inner
def are_scattered(packed: Ints, n: int) -> bool:
    """Whether the boxes around groups of n packed boxes cover the page many times: in reading order they do not."""
    covered = 0
    for group in range((n + FANOUT - 1) // FANOUT):
        box = around_group(packed, group, n)
        width = LAST_CELL - (box & LAST_CELL) - ((box >> 2 * FIELD) & LAST_CELL)
        height = LAST_CELL - ((box >> FIELD) & LAST_CELL) - (box >> 3 * FIELD)
        covered += (width + 1) * (height + 1)
    return covered > SCATTERED * (LAST_CELL + 1) * (LAST_CELL + 1)


@inner
def build_tree(boxes: Floats) -> tuple[Ints, Ints, Ints, tuple[float, float, float, float]]:
    """Packed boxes, the boxes around groups of 64 of them, around groups of those, and so on up to a few.

    Args:
        boxes: (n, 4) float64 left, top, right, bottom; those with right < left are empty and stay out.

    Returns:
        (tree, level_start, indices, grid): (m,) int64, the top level first, the boxes last; (levels + 1,) int64;
        (boxes,) int64, which box each of the last level is; see :func:`grid_of`.
    """
    x0, y0, x_scale, y_scale = grid_of(boxes)
    packed = np.empty(len(boxes), np.int64)
    indices = np.empty(len(boxes), np.int64)
    n = 0
    for i in range(len(boxes)):
        if boxes[i, 2] >= boxes[i, 0]:
            packed[n] = pack(
                cell_of(boxes[i, 0], x0, x_scale),
                cell_of(boxes[i, 1], y0, y_scale),
                LAST_CELL - cell_of(boxes[i, 2], x0, x_scale),
                LAST_CELL - cell_of(boxes[i, 3], y0, y_scale),
            )
            indices[n] = i
            n += 1
    if n > UNSORTED and are_scattered(packed, n):
        packed, indices = sort_by_place(packed, indices, n)
    levels = 1
    size = n
    total = 0
    while levels == 1 or size > TOP:
        size = (size + FANOUT - 1) // FANOUT
        total += FANOUT * size
        levels += 1
    total += size
    tree = np.empty(total, np.int64)
    for at in range(total):
        tree[at] = NOWHERE
    level_start = np.zeros(levels + 1, np.int64)
    level_start[levels] = total
    size = n
    for level in range(levels - 1, 0, -1):
        groups = (size + FANOUT - 1) // FANOUT
        level_start[level] = level_start[level + 1] - FANOUT * groups
        for at in range(size):
            tree[level_start[level] + at] = packed[at]
        for group in range(groups):
            packed[group] = around_group(packed, group, size)
        size = groups
    for at in range(size):
        tree[at] = packed[at]
    return tree, level_start, indices, (x0, y0, x_scale, y_scale)


@inner
def query_tree(tree: Ints, level_start: Ints, indices: Ints, asked: int, nodes: Ints, found: Ints) -> int:
    """Find the boxes that meet what is ``asked`` for (and perhaps some that do not), in ascending order.

    Args:
        tree, level_start, indices: see :func:`build_tree`.
        asked: see :func:`asked_for`.
        nodes, found: scratch (n,) int64 for n boxes; ``found`` is filled with indices of boxes.

    Returns:
        how many were found.
    """
    parents = 0
    for node in range(level_start[1]):
        if not_larger(tree[node], asked) == GUARDS:
            nodes[parents] = node
            parents += 1
    size = parents
    for level in range(1, len(level_start) - 1):
        size = 0
        for i in range(parents):
            first = FANOUT * nodes[i]
            start = level_start[level] + first
            meets = 0
            for child in range(FANOUT):
                meets |= int(not_larger(tree[nonneg(start + child)], asked) == GUARDS) << child
            while meets != 0:
                found[size] = first + lowest_bit(meets)
                size += 1
                meets &= meets - 1
        if level + 2 < len(level_start):
            parents = size
            for i in range(parents):
                nodes[i] = found[i]
    for i in range(size):
        found[i] = indices[found[i]]
    if len(indices) > UNSORTED:
        sort_indices(found, size)
    return size


@inner
def longer(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """A copy of ``values`` (n,) with room for at least ``size``."""
    grown = np.empty(max(size, 2 * len(values)), values.dtype)
    for i in range(len(values)):  # one by one: an array assignment takes numba seconds to compile
        grown[i] = values[i]
    return grown


@inner
def sort_indices(values: Ints, size: int) -> None:
    """Sort the first ``size`` of ``values`` in place: Shell's sort, which is plain insertion for a handful."""
    gap = 1
    while gap < size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, size):
            value = values[i]
            j = i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
        gap //= 3


@inner
def reach_of_words(
    bounds: Floats, char_start: Ints, centres: Floats, ever_ignored: Bools, first: int, last: int, whole: bool
) -> Floats:
    """Bounding boxes (last - first, 4) of what must meet a detection for a pair to matter.

    That is the pseudo characters, and the area too of words that are ignored, or of all (``whole``): without one of
    its characters in it, a detection's share of any other word decides nothing.
    """
    boxes = np.empty((last - first, 4))
    for g in range(first, last):
        left = top = np.inf
        right = bottom = -np.inf
        if whole or ever_ignored[g]:
            left = bounds[g, 0]
            top = bounds[g, 1]
            right = bounds[g, 2]
            bottom = bounds[g, 3]
        for c in range(char_start[g], char_start[g + 1]):
            left = min(left, centres[0, nonneg(c)])
            top = min(top, centres[1, nonneg(c)])
            right = max(right, centres[0, nonneg(c)])
            bottom = max(bottom, centres[1, nonneg(c)])
        boxes[g - first, 0] = left
        boxes[g - first, 1] = top
        boxes[g - first, 2] = right
        boxes[g - first, 3] = bottom
    return boxes


@kernel
def find_candidates(
    gt_image: Ints,
    gt_start: Ints,
    gt_bounds: Floats,
    char_start: Ints,
    centres: Floats,
    ever_ignored: Bools,
    det_start: Ints,
    bounds: Floats,
    first: int,
    last: int,
    whole: bool,
) -> tuple[Ints, Ints]:
    """The words that each detection of images ``first`` to ``last`` may make a pair with.

    A kernel of its own, so that it need not be compiled together with the counting, which takes longest.

    Args:
        gt_image: (n,) int64, the image of the ground truth for each image of detections.
        gt_start, gt_bounds, char_start, centres, ever_ignored: of :class:`~cleval_tm.kernels.matching.Words`.
        det_start, bounds: of :class:`~cleval_tm.kernels.matching.Detections`.
        whole: find all that share area.

    Returns:
        (start, candidates): int64 where each detection's start, counted from the first one's, and where the last one's
        end; int64 words, counted from their image's first, ascending for each detection.
    """
    first_det = det_start[first]
    start = np.empty(det_start[last] - first_det + 1, np.int64)
    candidates = np.empty(2 * len(start), np.int64)
    size = 0
    start[0] = 0
    for image in range(first, last):
        gt_first = gt_start[gt_image[image]]
        gt_last = gt_start[gt_image[image] + 1]
        boxes = reach_of_words(gt_bounds, char_start, centres, ever_ignored, gt_first, gt_last, whole)
        tree, level_start, indices, grid = build_tree(boxes)
        nodes = np.empty(len(boxes), np.int64)
        found = np.empty(len(boxes), np.int64)
        for d in range(det_start[image], det_start[image + 1]):
            asked = asked_for(bounds[d, 0], bounds[d, 1], bounds[d, 2], bounds[d, 3], grid)
            n = query_tree(tree, level_start, indices, asked, nodes, found)
            if size + n > len(candidates):
                candidates = longer(candidates, size + n)
            for f in range(n):
                candidates[size + f] = found[f]
            size += n
            start[d - first_det + 1] = size
    return start, candidates
