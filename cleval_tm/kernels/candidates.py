"""Which boxes meet: a packed tree over bounding boxes, so that work follows the overlaps, not the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels._jit import Floats, Ints, inner

FANOUT = 8
GRID = 65535.0
RADIX = 256


@inner
def spread(value: int) -> int:
    """The low 16 bits of ``value``, a zero between each two."""
    value = (value | (value << 8)) & 0x00FF00FF
    value = (value | (value << 4)) & 0x0F0F0F0F
    value = (value | (value << 2)) & 0x33333333
    return (value | (value << 1)) & 0x55555555


@inner
def spatial_order(boxes: Floats) -> Ints:
    """Indices (n,) int64 of boxes (n, 4) such that neighbours in the list are neighbours on the page (Z-order)."""
    n = len(boxes)
    order = np.arange(n)
    if n <= FANOUT:
        return order
    x0 = y0 = np.inf
    x1 = y1 = -np.inf
    for i in range(n):
        x0 = min(x0, boxes[i, 0])
        x1 = max(x1, boxes[i, 0])
        y0 = min(y0, boxes[i, 1])
        y1 = max(y1, boxes[i, 1])
    scale_x = GRID / (x1 - x0) if x1 > x0 else 0.0
    scale_y = GRID / (y1 - y0) if y1 > y0 else 0.0
    keys = np.empty(n, np.int64)
    for i in range(n):
        keys[i] = spread(int((boxes[i, 0] - x0) * scale_x)) | (spread(int((boxes[i, 1] - y0) * scale_y)) << 1)
    sorted_order = np.empty(n, np.int64)
    for shift in range(0, 32, 8):
        starts = np.zeros(RADIX + 1, np.int64)
        for i in range(n):
            starts[((keys[i] >> shift) & (RADIX - 1)) + 1] += 1
        for digit in range(RADIX):
            starts[digit + 1] += starts[digit]
        for at in range(n):
            i = order[at]
            digit = (keys[i] >> shift) & (RADIX - 1)
            sorted_order[starts[digit]] = i
            starts[digit] += 1
        order, sorted_order = sorted_order, order
    return order


@inner
def build_tree(boxes: Floats, order: Ints) -> tuple[Floats, Ints]:
    """Bounding boxes of groups of 8, of groups of those, and so on up to one group.

    Args:
        boxes: (n, 4) float64 left, top, right, bottom.
        order: (n,) int64, see :func:`spatial_order`.

    Returns:
        (tree, level_start): (m, 4) float64, the ordered boxes first, the root last; (levels + 1,) int64.
    """
    n = len(boxes)
    levels = 1
    size = n
    total = n
    while size > 1:
        size = (size + FANOUT - 1) // FANOUT
        total += size
        levels += 1
    tree = np.empty((total, 4))
    level_start = np.zeros(levels + 1, np.int64)
    for at in range(n):
        for side in range(4):
            tree[at, side] = boxes[order[at], side]
    level_start[1] = n
    for level in range(1, levels):
        first = level_start[level - 1]
        end = level_start[level]
        at = end
        for group in range(first, end, FANOUT):
            for side in range(4):
                tree[at, side] = tree[group, side]
            for child in range(group + 1, min(group + FANOUT, end)):
                tree[at, 0] = min(tree[at, 0], tree[child, 0])
                tree[at, 1] = min(tree[at, 1], tree[child, 1])
                tree[at, 2] = max(tree[at, 2], tree[child, 2])
                tree[at, 3] = max(tree[at, 3], tree[child, 3])
            at += 1
        level_start[level + 1] = at
    return tree, level_start


@inner
def query_tree(
    tree: Floats, level_start: Ints, order: Ints, boxes: Floats, asked: int, nodes: Ints, found: Ints
) -> int:
    """Find all boxes that meet row ``asked`` of ``boxes``, borders included.

    Args:
        tree, level_start, order: see :func:`build_tree`.
        nodes: scratch of the size of ``found``.
        found: (n + 1,) int64 or longer, filled with indices of boxes.

    Returns:
        how many were found.
    """
    levels = len(level_start) - 1
    left = boxes[asked, 0]
    top = boxes[asked, 1]
    right = boxes[asked, 2]
    bottom = boxes[asked, 3]
    found[0] = level_start[levels] - 1
    size = 0
    if found[0] >= 0:
        root = found[0]
        size += (
            (tree[root, 0] <= right)
            & (tree[root, 2] >= left)
            & (tree[root, 1] <= bottom)
            & (tree[root, 3] >= top)
        )
    for level in range(levels - 1, 0, -1):
        parents = size
        for i in range(parents):
            nodes[i] = found[i]
        size = 0
        for i in range(parents):
            first = level_start[level - 1] + (nodes[i] - level_start[level]) * FANOUT
            for child in range(first, min(first + FANOUT, level_start[level])):
                found[size] = child  # written in any case, kept if it meets: a branch here would cost more
                size += (
                    (tree[child, 0] <= right)
                    & (tree[child, 2] >= left)
                    & (tree[child, 1] <= bottom)
                    & (tree[child, 3] >= top)
                )
    for i in range(size):
        found[i] = order[found[i]]
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
