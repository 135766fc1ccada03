"""Random images: a second implementation, shapely, no exception whatever comes, the laws of the scores."""

from __future__ import annotations

import itertools
import math
from typing import Any

import datasets
import numpy as np
import pytest
import shapely
import strategies
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.peers import plain
from benchmarks.peers.plain_shapes import Shape
from cleval_tm import COUNTS, CLEvalRules, evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.* are left out, as rule set upstage does")

Images = list[dict[str, Any]]
RULE_SETS = ("v2023", "v2020", "upstage")
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))
SCALE_BINS = (0.0, 0.01, 0.1, 1.0)


# ------------------------------------------------------------- against the plain implementation


def on_a_knife_edge(pred: dict[str, Any], target: dict[str, Any], rules: CLEvalRules) -> bool:
    """Whether rounding in float64 decides a count.

    That is where an area is none but for rounding; and, without float32's tolerance, where ap is the constraint
    up to rounding or a point lies on the border of a repaired shape.
    """
    dets = [det for det in plain.read_side(pred, rules, is_target=False) if not det.quad]
    if any(0 < det.area < 1e-9 * det.region.area for det in dets):
        return True
    if rules.ap_float32:
        return False
    less, more = (
        plain.count_image(pred, target, rules.replace(ap_constraint=rules.ap_constraint * factor))
        for factor in (1 - 1e-9, 1 + 1e-9)
    )
    words = plain.read_side(target, rules, is_target=True)
    centres = [shapely.Point(centre) for word in words for centre in word.centres()]
    borders = [det.region.boundary for det in dets if det.irregular]
    return less != more or any(
        shapely.distance(border, centre) < 1e-9 for border in borders for centre in centres
    )


def on_a_grid(image: dict[str, Any]) -> bool:
    """Whether every coordinate is a multiple of .5: three points in line are in line exactly then."""
    return all((np.asarray(ring) * 2 % 1 == 0).all() for ring in image["polygons"])


def differences(preds: Images, target: Images, rules: CLEvalRules) -> list[str]:
    ours = evaluate(preds, target, rules).counts
    found = []
    for i, (pred, truth) in enumerate(zip(preds, target, strict=True)):
        theirs = plain.count_image(pred, truth, rules)
        mine = dict(zip(COUNTS, ours[i].tolist(), strict=True))
        if not (on_a_grid(pred) and on_a_grid(truth)):
            mine["irregular"] = theirs["irregular"]
        if mine != theirs and not on_a_knife_edge(pred, truth, rules):
            wrong = [name for name in COUNTS if mine[name] != theirs[name]]
            found += [f"image {i}: {name} {mine[name]}, not {theirs[name]}" for name in wrong]
    return found


@pytest.mark.parametrize("irregular", [0.0, 0.4], ids=["regular", "irregular"])
@pytest.mark.parametrize("polygons", [False, True], ids=["quads", "polygons"])
@pytest.mark.parametrize("name", RULE_SETS)
def test_equal_to_the_plain_implementation(name: str, polygons: bool, irregular: float) -> None:
    preds, target = strategies.random_images(250, first_seed=200_000, polygons=polygons, irregular=irregular)
    assert not differences(preds, target, CLEvalRules.named(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"text_unit": "grapheme"},
        {"normalization": "NFC"},
        {"normalization": "NFKC", "case_sensitive": False},
        {"normalization": "width"},
        {"ap_constraint": 1.0},
        {"ap_constraint": 1e-6},
        {"max_detections": 3},
    ],
    ids=str,
)
def test_options_equal_to_the_plain_implementation(changes: dict[str, Any]) -> None:
    preds, target = strategies.random_images(150, first_seed=300_000)
    assert not differences(preds, target, CLEvalRules.v2023(**changes))


def test_scale_bins_equal_to_the_plain_implementation() -> None:
    preds, target = strategies.random_images(150, first_seed=310_000)
    result = evaluate(preds, target, scale_bins=SCALE_BINS)
    assert result.scale_counts is not None
    for i, (pred, truth) in enumerate(zip(preds, target, strict=True)):
        for at, scale_bin in enumerate(itertools.pairwise(SCALE_BINS)):
            theirs = plain.count_image(pred, truth, result.rules, scale_bin=scale_bin)
            assert dict(zip(COUNTS, result.scale_counts[i, at].tolist(), strict=True)) == theirs


@pytest.mark.parametrize("name", RULE_SETS)
def test_words_without_texts_equal_to_the_plain_implementation(name: str) -> None:
    """Every word then has its pseudo length."""
    preds, target = strategies.random_images(150, first_seed=320_000, polygons=True)
    preds, target = (
        [{key: image[key] for key in image if key != "texts"} for image in side] for side in (preds, target)
    )
    rules = CLEvalRules.named(name)
    ours = evaluate(preds, target, rules, e2e=False).counts
    for row, pred, truth in zip(ours.tolist(), preds, target, strict=True):
        theirs = plain.count_image(pred, truth, rules, e2e=False)
        assert dict(zip(COUNTS, row, strict=True)) == theirs or on_a_knife_edge(pred, truth, rules)


@pytest.mark.parametrize("name", RULE_SETS)
@settings(SETTINGS, max_examples=60)
@given(image=strategies.images(strategies.polygons()))
def test_any_points_equal_to_the_plain_implementation(name: str, image: strategies.Pair) -> None:
    pred, target = image
    assert not differences([pred], [target], CLEvalRules.named(name))


# ------------------------------------------------------------- whatever comes


def check_bounds(preds: Images, target: Images, rules: CLEvalRules) -> None:
    result = evaluate(preds, target, rules, scale_bins=SCALE_BINS)
    assert result.scale_counts is not None
    for table in (result.counts, *np.moveaxis(result.scale_counts, 1, 0)):
        count = dict(zip(COUNTS, table.T, strict=True))
        assert (table >= 0).all()
        assert (count["det_tp"] <= count["chars_gt"]).all()
        assert (count["det_tp"] + count["overlaps"] + count["det_fp_chars"] == count["chars_det"]).all()
        assert (count["e2e_tp"] <= np.minimum(count["chars_gt"], count["recognition_chars"])).all()
        assert (count["e2e_tp"] + count["e2e_fp_chars"] == count["e2e_chars_det"]).all()
        assert (count["orientation_correct"] <= count["orientation_pairs"]).all()
    assert (
        result.scale_counts[:, :, COUNTS.index("words_gt")]
        <= result.counts[:, None, COUNTS.index("words_gt")]
    ).all()
    values = [*result.scores().values(), *np.concatenate(list(result.image_scores().values()))]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)


@pytest.mark.parametrize("name", RULE_SETS)
def test_no_exception_and_scores_from_0_to_1(name: str) -> None:
    for first, polygons in ((400_000, False), (410_000, True)):
        check_bounds(
            *strategies.random_images(200, first, polygons=polygons, irregular=0.5), CLEvalRules.named(name)
        )


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", RULE_SETS)
def test_no_exception_on_many_images(name: str, request: pytest.FixtureRequest) -> None:
    count, seed = datasets.long_run(request, 50_000)
    for first in range(seed, seed + count, 500):
        options = {"polygons": bool(first // 500 % 2), "irregular": (0.0, 0.3, 0.9)[first // 1000 % 3]}
        images = strategies.random_images(min(500, seed + count - first), first, **options)
        check_bounds(*images, CLEvalRules.named(name))


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", RULE_SETS)
def test_many_images_equal_to_the_plain_implementation(name: str, request: pytest.FixtureRequest) -> None:
    count, seed = datasets.long_run(request, 3_000)
    for first in range(seed, seed + count, 250):
        options = {"polygons": bool(first // 250 % 2), "irregular": (0.0, 0.4)[first // 500 % 2]}
        images = strategies.random_images(min(250, seed + count - first), first, **options)
        found = differences(*images, CLEvalRules.named(name))
        assert not found, f"seeds from {first}, {options}: {found}"


@settings(SETTINGS, max_examples=150)
@given(
    ring=st.lists(st.tuples(*[st.floats(-1e7, 1e7)] * 2), min_size=1, max_size=8),
    other=st.lists(st.tuples(*[st.floats(-50, 50)] * 2), min_size=1, max_size=40),
    name=st.sampled_from(RULE_SETS),
)
def test_no_shape_is_too_odd(ring: list, other: list, name: str) -> None:
    shapes = {"polygons": [np.array(ring), np.array(other)], "texts": ["abc", "d"]}
    check_bounds(
        [shapes], [{**shapes, "ignore": [False, True], "image_size": (100, 100)}], CLEvalRules.named(name)
    )
    check_bounds([shapes], [{**shapes, "image_size": (100, 100)}], CLEvalRules.named(name))


# ------------------------------------------------------------- laws


@pytest.fixture(scope="module")
def corpus() -> tuple[Images, Images]:
    return strategies.random_images(240, first_seed=500_000, irregular=0.1)


@pytest.mark.parametrize("name", RULE_SETS)
def test_order_batches_and_threads_give_the_same_bits(name: str, corpus: tuple[Images, Images]) -> None:
    preds, target = corpus
    whole = evaluate(preds, target, name, scale_bins=SCALE_BINS)
    order = np.random.default_rng(0).permutation(len(target)).tolist()
    mixed = evaluate([preds[i] for i in order], [target[i] for i in order], name, scale_bins=SCALE_BINS)
    threaded = evaluate(preds, target, name, scale_bins=SCALE_BINS, num_threads=3)
    parts = [
        evaluate(preds[first : first + size], target[first : first + size], name, scale_bins=SCALE_BINS)
        for first, size in ((0, 1), (1, 16), (17, 100), (117, 123))
    ]
    joined = parts[0] + parts[1] + (parts[2] + parts[3])
    reversed_joined = parts[3] + parts[2] + parts[1] + parts[0]
    for other in (threaded, joined):
        np.testing.assert_array_equal(whole.counts, other.counts)
        np.testing.assert_array_equal(whole.scale_counts, other.scale_counts)
    np.testing.assert_array_equal(whole.counts[order], mixed.counts)
    for other in (mixed, threaded, joined, reversed_joined):
        assert other.scores() == whole.scores()
        assert other.totals() == whole.totals()


@pytest.mark.parametrize("name", RULE_SETS)
def test_a_perfect_prediction_without_overlap_scores_1(name: str) -> None:
    rng = np.random.default_rng(7)
    images = []
    for _ in range(50):
        boxes, texts = [], []
        for row in range(6):
            for column in range(int(rng.integers(1, 4))):
                length = int(rng.integers(1, 9))
                x, y = 400 * column, 50 * row
                boxes.append([x, y, x + 12 * length + 7, y + 20])
                texts.append("".join(rng.choice(list("abcデ각")) for _ in range(length)))
        images.append({"boxes": np.array(boxes), "texts": texts})
    scores = evaluate(images, images, name).scores()
    perfect = {key for key in scores if "orientation" not in key}
    assert len(perfect) == 14
    assert {scores[key] for key in perfect} == {1.0}


@pytest.mark.parametrize("name", RULE_SETS)
def test_a_detection_that_touches_nothing_never_raises_precision(
    name: str, corpus: tuple[Images, Images]
) -> None:
    preds, target = corpus
    far = 1e5 + np.array([[[0, 0], [90, 0], [90, 10], [0, 10]]])
    more = [
        {
            "polygons": np.concatenate([image["polygons"], far]),
            "texts": [*image["texts"], "nothing"],
        }
        for image in preds
    ]
    rules = CLEvalRules.named(name, max_detections=None)
    before, after = (
        evaluate(preds, target, rules).image_scores(),
        evaluate(more, target, rules).image_scores(),
    )
    for kind in ("det", "e2e"):
        assert (after[f"{kind}_precision"] <= before[f"{kind}_precision"]).all()
        np.testing.assert_array_equal(after[f"{kind}_recall"], before[f"{kind}_recall"])


@pytest.mark.parametrize("name", RULE_SETS)
def test_match_adds_up_to_the_counts(name: str, corpus: tuple[Images, Images]) -> None:
    result = evaluate(*corpus, name)
    for i, row in enumerate(result.counts.tolist()):
        match, count = result.match(i), dict(zip(COUNTS, row, strict=True))
        hits = [h for g, h in match.character_hits.items() if g not in match.ignored_gt]
        hits = np.concatenate(hits) if hits else np.zeros(0, int)
        assert len(hits) == count["chars_gt"]
        assert (hits > 0).sum() == count["det_tp"]
        assert hits.sum() == count["chars_det"] - count["det_fp_chars"]
        assert sum(map(len, match.missed.values())) == count["chars_gt"] - count["det_tp"]
        assert len(match.ignored_gt) == count["ignored_gt"]
        assert len(match.ignored_det) == count["ignored_det"]
        assert len(match.irregular_gt) + len(match.irregular_det) == count["irregular"]
        matched_dets = {pair.det for pair in match.matched}
        assert count["words_det"] - len(matched_dets) == count["false_positives"]
        assert sum(len(pair.characters) for pair in match.matched) == hits.sum()


# ------------------------------------------------------------- geometry against shapely


def area_precision(word: np.ndarray, detection: np.ndarray, **changes: Any) -> float:
    """The library's ap of one pair in float64, by way of ``match``."""
    rules = CLEvalRules.v2023(ap_float32=False, **changes)
    match = evaluate([{"polygons": [detection]}], [{"polygons": [word]}], rules, e2e=False).match(0)
    return match.pairs[0].area_precision if match.pairs else 0.0


@settings(SETTINGS, max_examples=250)
@given(st.integers(0, 10**9))
@example(0)
def test_areas_of_polygons_of_3_to_40_points(seed: int) -> None:
    draw = strategies.Draw(seed)
    word, detection = (
        strategies._polygon(
            draw, draw.below(-20, 20), draw.below(-20, 20), draw.below(5, 60), draw.below(5, 60)
        )
        for _ in range(2)
    )
    rules = CLEvalRules.v2023()
    shapes = [Shape([tuple(p) for p in ring.tolist()], len(ring) == 4, rules) for ring in (word, detection)]
    expected = shapely.area(shapely.intersection(shapes[0].region, shapes[1].region)) / shapes[1].area
    assert area_precision(word, detection) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(SETTINGS, max_examples=150)
@given(st.integers(0, 10**9))
def test_characters_of_polygons_lie_where_shapely_says(seed: int) -> None:
    """Away from edges: containment, for simple and for crossing detections."""
    draw = strategies.Draw(seed)
    word, detection = (
        strategies._polygon(draw, draw.below(-9, 9), draw.below(-9, 9), draw.below(5, 60), draw.below(5, 60))
        for _ in range(2)
    )
    if draw.chance(0.3):
        detection = draw.rng.permutation(detection)
    text = "x" * draw.count(1, 30)
    target = {"polygons": [word], "texts": [text]}
    match = evaluate([{"polygons": [detection]}], [target], e2e=False).match(0)
    inside = set(match.pairs[0].characters) if match.pairs else set()
    region = Shape([tuple(p) for p in detection.tolist()], len(detection) == 4, CLEvalRules.v2023()).region
    for k, centre in enumerate(match.character_centres[0]):
        if shapely.distance(shapely.boundary(region), shapely.Point(centre)) > 1e-9:
            assert (k in inside) == shapely.contains_xy(region, *centre)


# ------------------------------------------------------------- reduced from failures


def test_rectangle_corners_exactly_on_a_half_round_to_even() -> None:
    word = (
        {"boxes": [], "texts": []},
        {
            "polygons": [[[1200, 172], [1260, 160], [1260, 173], [1200, 185]]],
            "texts": ["Taiwanese"],
            "image_size": (720, 1280),
        },
    )
    result = evaluate([word[0]], [word[1]], scale_bins=(0.005, 0.01, 0.015))
    assert result.scale_counts is not None
    assert result.scale_counts[0, :, COUNTS.index("words_gt")].tolist() == [1, 0]


def test_a_polygon_of_2_points_has_no_area_under_v2020() -> None:
    ring = np.array([[0, 1], [1, 0], [0, 2], [0, 0], [0, 0]], dtype=float)
    pred = {"polygons": [ring], "texts": [""]}
    target = {"polygons": [ring, np.array([[0.0, 0], [1, 2]])], "texts": ["", ""], "ignore": [True, False]}
    result = evaluate([pred], [target], "v2020")
    assert [pair.area_precision for pair in result.match(0).pairs] == [1.0]
    assert result.totals()["ignored_det"] == 1


def test_v2020_an_ignored_word_at_exactly_the_constraint_spoils_the_one_to_one_match() -> None:
    """The detection touches both halves at .5: not above it, so it counts, but it is no word's only one."""
    pred = {"boxes": [[0, 0, 10, 10]], "texts": ["abc"]}
    target = {"boxes": [[0, 0, 5, 10], [5, 0, 10, 10]], "texts": ["abc", "x"], "ignore": [False, True]}
    totals = evaluate([pred], [target], "v2020").totals()
    assert totals["ignored_det"] == 0
    assert (totals["det_tp"], totals["false_positives"]) == (0, 1)
    assert totals == {**plain.count_image(pred, target, CLEvalRules.v2020()), "images": 1}


@pytest.mark.parametrize(
    ("width", "widths", "ignored"), [(160, (18, 1, 13, 16), 1), (150, (14, 4, 6, 21), 0)]
)
def test_ignored_words_are_summed_in_set_order(width: int, widths: tuple, ignored: int) -> None:
    pred, target = strategies.image_where_set_order_decides(width, widths)
    in_set_order = evaluate([pred], [target]).totals()
    ascending = evaluate([pred], [target], CLEvalRules.v2023(set_order=False)).totals()
    assert in_set_order["ignored_det"] == ignored
    assert ascending["ignored_det"] == 1 - ignored
    assert in_set_order == {**plain.count_image(pred, target, CLEvalRules.v2023()), "images": 1}


def test_words_that_share_an_edge_but_for_its_last_bits_are_both_taken_out() -> None:
    """Their plain union, by GEOS 3.14, is the first of them alone."""
    left, right, top, low = -33.96034802615617, 39.80452704128193, 17.746419397153936, -2.710101709242313
    words = [
        np.array([[left, top], [right, low], [right, top]]),
        np.array([[left, top], [2.9220895075628803, 7.518158843955812], [left, low]]),
    ]
    region = np.array([[left, low], [right, low], [right, top], [left, top]])
    ring = np.array([*region, [left, (low + top) / 2]])  # five points: no quad, so not snapped
    target = {"polygons": [*words, ring], "texts": ["a", "b", "c"], "ignore": [False, False, True]}
    for name in ("v2023", "v2020"):
        pairs = evaluate([{"polygons": [ring], "texts": [""]}], [target], name).match(0).pairs
        assert [pair.area_precision for pair in pairs] == pytest.approx([0.5, 0.25, 0.25], abs=1e-7)
