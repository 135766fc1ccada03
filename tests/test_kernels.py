"""The kernels one by one, on figures worked out by hand. The file also runs as plain Python (NUMBA_DISABLE_JIT=1)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleval_tm.kernels.characters import POLYGON, QUAD, TRUNCATED, place_characters, rectangle_aspects
from cleval_tm.kernels.measure import (
    CROSSING,
    IRREGULAR,
    REGULAR,
    inspect_rings,
    measure_lengths,
    measure_shapes,
    overlapping_words,
    shorter_sides,
)

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]
BOW_TIE = [(0, 0), (10, 10), (10, 0), (0, 10)]


def flat(*rings):
    points = np.concatenate([np.asarray(ring, float).reshape(-1, 2) for ring in rings])
    return points, np.cumsum([0, *map(len, rings)])


def measured(*rings, style=QUAD):
    points, starts = flat(*rings)
    styles = np.full(len(rings), style, np.uint8)
    return measure_shapes(points, starts, styles)


def states(*rings):
    _points, starts = flat(*rings)
    rings_, _, _, area, state = measured(*rings, style=POLYGON)
    inspect_rings(rings_, starts, area, state)
    return state.tolist()


def characters(ring, count, style=QUAD, by_height=False, threshold=0.5):
    points, starts = flat(ring)
    return place_characters(
        points, starts, np.array([style], np.uint8), np.array([0, count]), by_height, threshold
    )


def test_area_is_that_of_the_truncated_ring_whatever_its_direction():
    _, _, bounds, area, *_ = measured([(0.9, 0.9), (10.9, 0), (10, 10), (-0.9, 10)], SQUARE[::-1])
    assert area.tolist() == [100.0, 100.0]
    assert bounds[0].tolist() == [0, 0, 10, 10]


def test_an_area_that_is_but_rounding_is_none():
    lobes = [(0.1, 0.1), (10.3, 10.3), (10.3, 0.1), (0.1, 10.3)]
    *_, area, _ = measured(lobes, style=POLYGON)
    assert area.tolist() == [0.0]


@pytest.mark.parametrize(
    ("width", "height", "pseudo_length"),
    [(30, 10, 3), (10, 30, 3), (10, 10, 2), (1000, 10, 10), (10, 1000, 10)],
)
def test_pseudo_lengths_of_boxes(width, height, pseudo_length):
    points, starts = flat([(0, 0), (width, 0), (width, height), (0, height)], SQUARE)
    styles = np.full(2, QUAD, np.uint8)
    lengths = measure_lengths(points, starts, styles, np.zeros(2), np.array([True, False]), False, 10)
    assert lengths.tolist() == [pseudo_length, 0]


@pytest.mark.parametrize(
    ("ring", "state"),
    [
        (SQUARE, REGULAR),
        (BOW_TIE, CROSSING),
        ([(0, 0), (5, 0), (5, 0), (0, 5)], IRREGULAR),
        ([(0, 0), (5, 5), (9, 9)], IRREGULAR),
        ([(3, 3)], IRREGULAR),
        ([(0, 0), (10, 0), (5, 2), (5, 9)], REGULAR),
        ([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (-4, 0), (-4, -4), (0, -4)], CROSSING),
    ],
)
def test_states(ring, state):
    assert states(ring) == [state]


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


def test_overlapping_words_are_found_for_those_asked_for():
    boxes = [[(x, y), (x + 10, y), (x + 10, y + 10), (x, y + 10)] for x in range(0, 200, 5) for y in (0, 20)]
    _points, starts = flat(*boxes)
    _, edges, bounds, *_ = measured(*boxes)
    asked = np.zeros(len(boxes), bool)
    asked[10] = True
    words, others = overlapping_words(
        np.array([0, 0, len(boxes)]), asked, bounds, edges, starts[:-1].copy(), starts[1:].copy()
    )
    assert sorted(zip(words.tolist(), others.tolist(), strict=True)) == [(10, 8), (10, 12)]


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
