"""The kernels one by one, on figures worked out by hand. The file also runs as plain Python (NUMBA_DISABLE_JIT=1)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from cleval_tm.kernels.candidates import FANOUT, TOP, UNSORTED, asked_for, build_tree, query_tree
from cleval_tm.kernels.characters import (
    POLYGON,
    QUAD,
    TRUNCATED,
    place_characters,
    pseudo_lengths,
    rectangle_aspects,
)
from cleval_tm.kernels.geometry import core_of, mark_contained
from cleval_tm.kernels.measure import BOX, CONVEX, CROSSING, IRREGULAR, SIMPLE, shorter_sides
from cleval_tm.kernels.remainders import take_out_words
from cleval_tm.rules import CLEvalRules
from cleval_tm.shapes import Shapes
from cleval_tm.text import letters_of

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]
BOW_TIE = [(0, 0), (10, 10), (10, 0), (0, 10)]


def flat(*rings):
    points = np.concatenate([np.asarray(ring, float).reshape(-1, 2) for ring in rings])
    return points, np.cumsum([0, *map(len, rings)])


def measured(*rings, style=QUAD):
    points, starts = flat(*rings)
    return Shapes(np.array([0, len(rings)]), points, starts, np.full(len(rings), style, np.uint8))


def characters(ring, count, style=QUAD, by_height=False, threshold=0.5, is_pseudo=False):
    points, starts = flat(ring)
    char_start, centres = place_characters(
        points,
        starts,
        np.array([style], np.uint8),
        np.zeros(1),
        np.array([0, count + 1]),
        np.array([is_pseudo]),
        0,
        by_height,
        threshold,
        10,
    )
    assert char_start.tolist() == [0, centres.shape[1]]
    return centres.T


def test_area_is_that_of_the_truncated_ring_whatever_its_direction():
    shapes = measured([(0.9, 0.9), (10.9, 0), (10, 10), (-0.9, 10)], SQUARE[::-1])
    assert shapes.area.tolist() == [100.0, -100.0]
    assert shapes.bounds[0].tolist() == [0, 0, 10, 10]


def test_an_area_that_is_but_rounding_is_none():
    lobes = [(0.1, 0.1), (10.3, 10.3), (10.3, 0.1), (0.1, 10.3)]
    assert measured(lobes, style=POLYGON).area.tolist() == [0.0]


@pytest.mark.parametrize(
    ("width", "height", "pseudo_length"),
    [(30, 10, 3), (10, 30, 3), (10, 10, 2), (1000, 10, 10), (10, 1000, 10)],
)
def test_pseudo_lengths_of_boxes(width, height, pseudo_length):
    points, starts = flat([(0, 0), (width, 0), (width, height), (0, height)], SQUARE)
    styles = np.full(2, QUAD, np.uint8)
    assert pseudo_lengths(points, starts, styles, np.zeros(2), np.array([0]), False, 10).tolist() == [
        pseudo_length
    ]
    assert len(characters(points[:4], 99, is_pseudo=True)) == pseudo_length


@pytest.mark.parametrize(
    ("ring", "kind"),
    [
        (SQUARE, BOX),
        (SQUARE[::-1], BOX),
        (SQUARE[1:] + SQUARE[:1], BOX),
        ([(0, 0), (10, 1), (10, 10), (0, 10)], CONVEX),
        (BOW_TIE, CROSSING),
        ([(0, 0), (5, 0), (5, 0), (0, 5)], IRREGULAR),
        ([(0, 0), (5, 5), (9, 9)], IRREGULAR),
        ([(3, 3)], IRREGULAR),
        ([(0, 0), (10, 0), (5, 2), (5, 9)], SIMPLE),
        ([(0, 0), (10, 0), (12, 5), (10, 10), (0, 10)], SIMPLE),
        ([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (-4, 0), (-4, -4), (0, -4)], CROSSING),
    ],
)
def test_kinds(ring, kind):
    assert measured(ring, style=POLYGON).kind.tolist() == [kind]


def test_characters_of_a_box_stand_on_its_middle_line():
    assert characters([(0, 0), (40, 0), (40, 10), (0, 10)], 4).tolist() == [[5, 5], [15, 5], [25, 5], [35, 5]]


def test_vertical_text_runs_from_its_second_side():
    ring = [(0, 0), (10, 0), (10, 40), (0, 40)]
    assert characters(ring, 2).tolist() == [[5, 30], [5, 10]]
    assert characters(ring, 2, by_height=True, threshold=2.0).tolist() == [[5, 30], [5, 10]]
    assert characters(ring, 2, threshold=0.1).tolist() == [[2.5, 20], [7.5, 20]]


def test_a_polygon_of_four_points_is_a_quad():
    ring = [(0, 0), (31, 3), (33, 14), (2, 9)]
    np.testing.assert_allclose(characters(ring, 3, POLYGON), characters(ring, 3, QUAD))


def test_polygon_characters_follow_both_halves():
    bent = [(0, 0), (10, 0), (20, 10), (20, 20), (10, 10), (0, 10)]
    assert characters(bent, 2, POLYGON).tolist() == [[5, 5], [15, 10]]
    assert characters(bent, 1, POLYGON).tolist() == [[10, 10]]
    odd = [(0, 0), (10, 0), (10, 10), (6, 12), (0, 10)]
    assert characters(odd, 1, POLYGON).tolist() == [[5, 5]]


def test_inner_division_points_are_truncated_but_not_the_ends_of_sections():
    ring = [(0.5, 0), (10.5, 0), (10.5, 10), (0.5, 10)]
    assert characters(ring, 2, TRUNCATED)[:, 0].tolist() == [(0.5 + 5) / 2, (5 + 10.5) / 2]
    assert characters(ring, 2, POLYGON)[:, 0].tolist() == [3.0, 8.0]


@pytest.mark.parametrize("points", [1, 2, 3])
def test_polygons_of_few_points_have_characters(points):
    ring = [(0, 0), (4, 0), (4, 4)][:points]
    assert np.isfinite(characters(ring, 3, POLYGON)).all()


def test_rectangle_aspect_of_the_first_smallest_rectangle():
    points, starts = flat(
        [(0, 0), (30, 0), (30, 10), (0, 10)], [(0, 0), (10, 10), (5, 15), (-5, 5)], [(1, 1), (5, 1)]
    )
    aspects = rectangle_aspects(points, starts)
    assert aspects[0] == pytest.approx(1 / 3, rel=1e-6)
    assert aspects[1] in (pytest.approx(2, rel=1e-6), pytest.approx(0.5, rel=1e-6))
    assert aspects[2] == 0


def test_shorter_side_rounds_corners_half_to_even():
    # The rectangle's corners are (1197.5, 172.5), (1260, 160), (1262.5, 172.5), (1200, 185).
    points, starts = flat([(1200, 172), (1260, 160), (1260, 173), (1200, 185)], [(7, 7)])
    sides = shorter_sides(points, starts)
    corners = np.array([(1198, 172), (1260, 160), (1262, 172), (1200, 185)])
    lengths = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    assert sides[0] == pytest.approx(min(lengths[0] + lengths[2], lengths[1] + lengths[3]) / 2)
    assert sides[1] == 0


def region_area(edges):
    """Signed area below the edges of a region."""
    return float(((edges[:, 2] - edges[:, 0]) * (edges[:, 1] + edges[:, 3]) / 2 * edges[:, 5]).sum())


def test_words_are_taken_out_of_the_ignored_ones_that_they_overlap():
    boxes = [[(x, y), (x + 10, y), (x + 10, y + 10), (x, y + 10)] for x in range(0, 200, 20) for y in (0, 20)]
    line = [(5, 5), (195, 5), (195, 25), (5, 25)]
    shapes = measured(*boxes, line)
    ignored = np.zeros((2, len(boxes) + 1), bool)
    ignored[:, -1] = True
    ignored[1, 0] = True
    remainder = np.empty(ignored.shape, np.int64)
    edges, region_start, hard = take_out_words(shapes.arrays(), ignored, remainder, 0)
    assert remainder[:, :-1].tolist() == [[-1] * len(boxes)] * 2  # the line is ignored itself: nothing goes
    areas = [region_area(edges[region_start[r] : region_start[r + 1]]) for r in remainder[:, -1]]
    first = 5 * 5 + 5 * 5  # what the line shares with the first word of each row
    others = 9 * 2 * 10 * 5
    assert areas == pytest.approx([190 * 20 - first - others, 190 * 20 - first / 2 - others])
    assert len(hard) == 0


def test_what_no_convex_cut_can_take_out_is_named():
    shapes = measured([(0, 0), (40, 0), (40, 10), (0, 10)], [(0, 0), (20, 0), (20, 10), (0, 10)], SQUARE)
    ignored = np.array([[True, False, False]])
    remainder = np.empty(ignored.shape, np.int64)
    edges, _, hard = take_out_words(shapes.arrays(), ignored, remainder, 0)
    assert (remainder.tolist(), len(edges)) == ([[-1, -1, -1]], 0)
    view, word, how_many = 0, 0, 2
    assert hard.tolist() == [view, word, how_many, 1, 2]


def letters_in(*lists):
    return letters_of(lists, np.cumsum([0, *map(len, lists)]), CLEvalRules.v2023())


def test_letters_are_code_points_whatever_the_text():
    lists = (["ab", "###"], [], ["한글", "\n\0"], ["\ud800", "####", "", "🙂" * 100])
    letters, letter_start, is_hashes, some_hashes = letters_in(*lists)
    texts = [text for mine in lists for text in mine]
    read = [letters[start : end - 1] for start, end in itertools.pairwise(letter_start.tolist())]
    assert ["".join(map(chr, mine)) for mine in read] == texts
    assert len(letters) == letter_start[-1]
    assert letters.dtype == np.int32
    assert is_hashes.tolist() == [text == "###" for text in texts]
    assert some_hashes


@pytest.mark.parametrize("other", [None, 7, b"ab", 0.5])
def test_what_is_no_text_is_refused(other):
    with pytest.raises(TypeError):
        letters_in(["ab"], ["cd", other])
    assert letters_in(["ab"]).letter_start.tolist() == [0, 3]


def test_a_list_that_shrank_meanwhile_is_refused():
    with pytest.raises((TypeError, IndexError)):
        letters_of([["ab"]], np.array([0, 2]), CLEvalRules.v2023())


@numba.njit
def core_and_held(ring, points):
    """The core of a ring, and which points (2, P) the ring holds."""
    held = np.empty(points.shape[1], np.uint8)
    mark_contained(ring, 0, len(ring), points, 0, points.shape[1], held, 0)
    return core_of(ring, 0, len(ring)), held


def test_the_core_of_a_quad_holds_no_point_that_the_quad_does_not():
    rng = np.random.default_rng(5)
    in_cores = 0
    for magnitude in (1.0, 20.0, 1e6):
        for _ in range(300):
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * rng.uniform(0.2, 2, 2)
            quad = ((corners + rng.normal(0, 0.4, (4, 2)) + 5) * magnitude).round(rng.integers(0, 3))
            quad = np.roll(quad, rng.integers(0, 4) if rng.random() < 0.2 else 0, axis=0)[
                :: rng.choice((1, 1, -1))
            ]
            grid = [
                np.unique((quad[:, axis, None] + magnitude * np.array([-1e-13, 0, 1e-13, 0.1])).ravel())
                for axis in (0, 1)
            ]
            points = np.stack(np.meshgrid(*grid)).reshape(2, -1)
            (left, top, right, bottom), held = core_and_held(np.ascontiguousarray(quad), points)
            x, y = points
            in_core = (x > left) & (y > top) & (x < right) & (y < bottom)
            assert held[in_core].all()
            in_cores += in_core.sum()
    assert in_cores > 1000
    upright = np.array([(0.0, 0.0), (40.0, 0.0), (40.0, 10.0), (0.0, 10.0)])
    assert core_and_held(upright, np.zeros((2, 0)))[0] == pytest.approx((0, 0, 40, 10), abs=1e-9)
    (left, _, right, _), _ = core_and_held(upright[:3], np.zeros((2, 0)))
    assert left > right  # only of quads


@numba.njit
def found_among(boxes, asked):
    """The boxes found for each row of those asked for, -1 behind each row's."""
    tree, level_start, indices, grid = build_tree(boxes)
    nodes = np.empty(len(boxes), np.int64)
    found = np.empty(len(boxes), np.int64)
    rows = np.full((len(asked), len(boxes) + 1), -1)
    for i in range(len(asked)):
        box = asked_for(asked[i, 0], asked[i, 1], asked[i, 2], asked[i, 3], grid)
        size = query_tree(tree, level_start, indices, box, nodes, found)
        rows[i, :size] = found[:size]
    return rows


@pytest.mark.parametrize(
    "n", [0, 1, 7, FANOUT, FANOUT + 1, UNSORTED, UNSORTED + 1, FANOUT * TOP * 10 // 9, 3000]
)
@pytest.mark.parametrize("in_lines", [False, True])
def test_the_tree_finds_every_box_that_meets_and_few_others(n, in_lines):
    rng = np.random.default_rng(n)
    low = rng.uniform(-100, 1000, (n, 2))
    if in_lines:
        low = low[np.lexsort((low[:, 0], low[:, 1] // 50))]
    boxes = np.concatenate((low, low + rng.uniform(0, 60, (n, 2))), axis=1)
    boxes[rng.random(n) < 0.1] = (np.inf, np.inf, -np.inf, -np.inf)  # empty ones stay out
    low = rng.uniform(-300, 1200, (20, 2))
    asked = np.concatenate((low, low + rng.uniform(0, 200, (20, 2))), axis=1)
    for (left, top, right, bottom), row in zip(asked, found_among(boxes, asked), strict=True):
        found = row[row >= 0].tolist()
        meets = (
            (boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= bottom) & (boxes[:, 3] >= top)
        )
        assert found == sorted(found)
        assert set(np.flatnonzero(meets).tolist()) <= set(found)
        on_the_page = left > 0 and right < 900 and top > 0 and bottom < 900
        assert not on_the_page or len(found) <= meets.sum() + 2


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="this is the plain run itself")
def test_all_of_this_holds_as_plain_python():
    here = Path(__file__)
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    files = [str(here), str(here.with_name("test_core.py"))]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=environment,
        cwd=here.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
