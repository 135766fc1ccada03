"""Small images whose counts are worked out by hand: matching, ignoring, counting, texts; and what bad input says."""

from __future__ import annotations

import numpy as np
import pytest

from cleval_tm import COUNTS, CLEvalMetric, CLEvalRules, evaluate
from cleval_tm.encode import GroundTruth
from cleval_tm.evaluation import count_images


def box(x0, y0, x1, y1):
    return [x0, y0, x1, y1]


def image(boxes, texts=None, **more):
    return {
        "boxes": np.array(boxes, float).reshape(-1, 4),
        **({} if texts is None else {"texts": texts}),
        **more,
    }


def totals(pred, target, rules="v2023", **options):
    return evaluate([pred], [target], rules, **options).totals()


WORD = box(0, 0, 40, 10)
LEFT, RIGHT = box(0, 0, 20, 10), box(20, 0, 40, 10)


def test_one_to_one():
    counts = totals(image([WORD], ["word"]), image([WORD], ["word"]))
    assert {name: value for name, value in counts.items() if value} == {
        "chars_gt": 4,
        "chars_det": 4,
        "det_tp": 4,
        "e2e_tp": 4,
        "e2e_chars_det": 4,
        "recognition_chars": 4,
        "words_gt": 1,
        "words_det": 1,
        "images": 1,
    }


def test_split_and_merge():
    split = totals(image([LEFT, RIGHT], ["wo", "rd"]), image([WORD], ["word"]))
    assert (split["splits"], split["recall_granularity"], split["e2e_tp"]) == (1, 1, 4)
    merge = totals(image([WORD], ["word"]), image([LEFT, RIGHT], ["wo", "rd"]))
    assert (merge["merges"], merge["precision_granularity"], merge["e2e_tp"]) == (1, 1, 4)


def test_letters_are_used_once():
    counts = totals(image([WORD], ["aa"]), image([LEFT, RIGHT], ["aa", "aa"]))
    assert (counts["e2e_tp"], counts["e2e_fp_chars"], counts["det_tp"]) == (2, 0, 4)


def test_second_claims_are_overlaps():
    counts = totals(image([WORD, WORD], ["word", "word"]), image([WORD], ["word"]))
    assert (counts["det_tp"], counts["overlaps"], counts["chars_det"], counts["splits"]) == (4, 4, 8, 1)


def test_hashes_ignore_a_word_unless_flags_are_given():
    pred, text = image([WORD], ["word"]), ["###"]
    assert totals(pred, image([WORD], text))["ignored_gt"] == 1
    assert totals(pred, image([WORD], text))["ignored_det"] == 1
    assert totals(pred, image([WORD], text, ignore=[False]))["ignored_gt"] == 0


def test_an_ignored_region_loses_the_words_in_it():
    region, word = box(0, 0, 100, 20), box(0, 0, 50, 20)
    target = image([region, word], ["###", "word"])
    match = evaluate([image([word, box(40, 0, 90, 20)], ["word", "x"])], [target]).match(0)
    assert {(pair.gt, pair.det): pair.area_precision for pair in match.pairs} == {
        (0, 0): 0.0,
        (1, 0): 1.0,
        (0, 1): pytest.approx(0.8),
        (1, 1): pytest.approx(0.2),
    }
    assert match.ignored_det == (1,)
    assert match.matched[0].relations == ("one-to-one",)


def test_several_ignored_regions_take_a_detection_out_together():
    regions = [box(x, 0, x + 10, 20) for x in range(0, 60, 20)]
    pred = image([box(0, 0, 60, 20)], ["x"])
    counts = totals(pred, image(regions, ["###"] * 3))
    assert counts["ignored_det"] == 1
    assert totals(pred, image(regions[:1], ["###"]))["ignored_det"] == 0


def test_set_order_decides_between_words_that_share_letters():
    counted = {2: "a", 8: "ba", 10: "zz", 11: "zz"}  # a Python set of these walks 8, 11, 2, 10
    words = [
        box(10 * n, 0, 10 * n + 10, 10) if n in counted else box(0, 50 + n, 1, 51 + n) for n in range(12)
    ]
    target = image(words, [counted.get(n, "###") for n in range(12)])
    pred = image([box(20, 0, 120, 10)], ["ab"])
    assert GroundTruth([target]).words.order[0, :4].tolist() == [8, 11, 2, 10]
    rules = CLEvalRules.v2023(ap_constraint=0.1)
    assert totals(pred, target, rules)["e2e_tp"] == 1
    assert totals(pred, target, rules.replace(set_order=False))["e2e_tp"] == 2


def test_a_set_without_less_than_a_quarter_of_it_ascends():
    random = np.random.default_rng(5)
    for n in [*range(1, 300), 5000]:
        taken = set(random.permutation(n)[: (n - 1) // 4].tolist())
        assert list(set(range(n)) - taken) == [word for word in range(n) if word not in taken]


def test_false_positive_characters_go_by_the_rules():
    long_one = image([box(0, 0, 100, 10)], ["x"])
    nothing = image([], [])
    assert totals(long_one, nothing, "v2023")["det_fp_chars"] == 1
    assert totals(long_one, nothing, "v2020")["det_fp_chars"] == 10


def test_hashes_in_a_detection_count_as_pseudo_characters():
    pred = image([box(0, 0, 60, 10)], ["###"])
    assert totals(pred, image([], []), "v2023")["e2e_chars_det"] == 6
    assert totals(pred, image([], []), "v2020")["e2e_chars_det"] == 3


def test_upper_case_can_change_a_length():
    rules = CLEvalRules.v2023(case_sensitive=False)
    counts = totals(image([WORD], ["STRASSE"]), image([WORD], ["straße"]), rules)
    assert (counts["chars_gt"], counts["e2e_tp"]) == (7, 7)


@pytest.mark.parametrize(
    ("options", "gt", "det", "equal"),
    [
        ({}, "한", "\u1112\u1161\u11ab", False),
        ({"normalization": "NFC"}, "한", "\u1112\u1161\u11ab", True),
        ({"normalization": "width"}, "Ａ", "A", True),
        ({"normalization": "width"}, "①", "1", False),
        ({"normalization": "NFKC"}, "①", "1", True),
    ],
)
def test_normalization(options, gt, det, equal):
    counts = totals(image([WORD], [det]), image([WORD], [gt]), CLEvalRules.v2023(**options))
    assert (counts["e2e_tp"] == counts["chars_gt"]) is equal


def test_grapheme_clusters():
    pytest.importorskip("regex")
    rules = CLEvalRules.v2023(text_unit="grapheme")
    family = "👨‍👩‍👧"
    counts = totals(image([WORD], ["नि" + family]), image([WORD], [family + "नि"]), rules)
    assert (counts["chars_gt"], counts["e2e_tp"], counts["e2e_chars_det"]) == (2, 1, 2)


def test_without_texts_words_have_pseudo_characters():
    counts = totals(image([WORD]), image([box(0, 0, 60, 10)]), e2e=False)
    assert (counts["chars_gt"], counts["e2e_chars_det"]) == (6, 0)


def test_orientation():
    labels = {"orientation_labels": ["up", None]}
    pred = image([WORD, box(0, 20, 40, 30)], ["word", "word"], orientation_labels=["up", "up"])
    counts = totals(pred, image([WORD, box(0, 20, 40, 30)], ["word", "word"], **labels))
    assert (counts["orientation_pairs"], counts["orientation_correct"]) == (1, 1)


def test_scale_bins_ignore_words_outside():
    target = image([WORD, box(0, 20, 400, 120)], ["word", "long"], image_size=(500, 1000))
    result = evaluate([image([WORD], ["word"])], [target], scale_bins=(0, 0.01, 0.1))
    by_name = dict(zip(COUNTS, result.scale_counts[0].T.tolist(), strict=True))
    assert by_name["words_gt"] == [1, 2]
    assert {"scale_0_0.01_det_hmean", "scale_0.01_0.1_e2e_recall"} <= set(result.scores())


def test_upstage_skips_what_it_cannot_read_and_keeps_the_first_500():
    target = image([WORD])
    pred = {"polygons": [np.array([(0, 0), (4, 4)]), np.array([(0, 0), (40, 0), (40, 10), (0, 10)])] * 300}
    with pytest.warns(UserWarning, match=r"250 shapes of preds .* the first is shape 0 of preds\[0\]"):
        result = evaluate([pred], [target], "upstage", e2e=False)
    assert result.totals()["words_det"] == 250
    assert result.match(0).matched[0].det == 1


def test_polygons_of_2020_are_not_quads():
    ring = [(0.5, 0), (40.5, 0), (40.5, 10), (0.5, 10)]
    as_quad = {"polygons": np.array([ring])}
    as_polygon = {"polygons": [np.array(ring)]}
    by_key = {"polygons": np.array([ring]), "box_type": "poly"}
    areas = [
        GroundTruth([target], "v2020", e2e=False).words.shapes.bounds[0, 2]
        for target in (as_quad, as_polygon, by_key)
    ]
    assert areas == [40.0, 40.5, 40.5]


def test_a_polygon_of_two_points_takes_nothing_from_an_ignored_one():
    ring = np.array([(0, 1), (1, 0), (0, 2), (0, 0), (0, 0)], float)
    target = {
        "polygons": [ring, np.array([(0, 0), (1, 2)], float)],
        "texts": ["", ""],
        "ignore": [True, False],
    }
    match = evaluate([{"polygons": [ring], "texts": [""]}], [target], "v2020").match(0)
    assert [(pair.gt, pair.area_precision) for pair in match.pairs] == [(0, 1.0)]


@pytest.mark.parametrize("rules", ["v2023", "v2020"])
@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["same", "line", "cross"])
def test_irregular_shapes_never_raise(rules, points, kind):
    ring = {
        "same": [(5, 5)] * points,
        "line": [(n, n) for n in range(points)],
        "cross": [(0, 0), (10, 10), (10, 0), (0, 10), (3, 3)][:points],
    }[kind]
    shape = {"polygons": [np.array(ring, float)], "texts": ["ab"]}
    for pred, target in ((shape, image([WORD], ["word"])), (image([WORD], ["word"]), shape), (shape, shape)):
        result = evaluate([pred], [target], rules)
        assert all(np.isfinite(value) for value in result.scores().values())
        # v2020 gives a polygon of three points a fourth, which takes it off its line
        assert result.totals()["irregular"] > 0 or (points == 3 and (kind == "cross" or rules == "v2020"))


def test_evaluations_add_up_and_threads_change_nothing():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 200, (40, 12, 2)).astype(float)
    sizes = rng.integers(5, 80, (40, 12, 2))
    boxes = np.concatenate((corners, corners + sizes), axis=2)
    texts = ["abc", "###", "", "a"] * 3
    preds = [image(b + rng.integers(-3, 4, b.shape) * [1, 1, 0, 0], texts) for b in boxes]
    preds = [{**p, "boxes": np.sort(p["boxes"].reshape(-1, 2, 2), axis=1).reshape(-1, 4)} for p in preds]
    target = [image(b, texts, image_id=n) for n, b in enumerate(boxes)]
    whole = evaluate(preds, target)
    assert (evaluate(preds, target, num_threads=3).counts == whole.counts).all()
    parts = evaluate(preds[:7], target[:7]) + evaluate(preds[7:], target[7:])
    assert (parts.counts == whole.counts).all()
    assert parts.image_ids == list(range(40))
    assert parts.match(11).pairs == whole.match(11).pairs
    chosen = [5, 30, 5]
    kept = GroundTruth(target)
    counted = count_images([preds[i] for i in chosen], kept.select(chosen), CLEvalRules.v2023())
    assert (counted.counts == whole.counts[chosen]).all()


def test_match_tells_missed_and_overlapped_characters():
    match = evaluate(
        [image([box(0, 0, 30, 10), box(10, 0, 30, 10)], ["wor", "or"])], [image([WORD], ["word"])]
    ).match(0)
    assert match.missed == {0: (3,)}
    assert match.overlapped == {0: (1, 2)}
    assert [pair.relations for pair in match.matched] == [("split",), ("split",)]
    assert match.matched[1].characters == (1, 2)


BAD = [
    ({"boxes": [WORD], "polygons": [[0] * 8]}, "either 'polygons' or 'boxes' but got both"),
    ({}, "either 'polygons' or 'boxes' but got neither"),
    ({"boxes": [[0, 0, 1]]}, r"preds\[0\]\['boxes'\].*shape \(N, 4\).*\(1, 3\)"),
    ({"boxes": [WORD, [5, 0, 1, 1]]}, r"preds\[0\]\['boxes'\]\[1\].*right >= left"),
    ({"boxes": [WORD, [0, 0, np.nan, 1]]}, r"preds\[0\] .*finite.*shape 1"),
    ({"polygons": np.zeros((2, 6))}, r"\(N, 8\) or \(N, P, 2\).*\(2, 6\)"),
    ({"polygons": [[(0, 0), (1, 1, 1)]]}, r"preds\[0\]\['polygons'\]\[0\]"),
    ({"polygons": [np.zeros((0, 2))]}, "at least 1 point"),
    ({"boxes": [WORD], "texts": ["a", "b"]}, r"'texts'.*1 shapes but got 2"),
    ({"boxes": [WORD], "texts": [3]}, r"\['texts'\]\[0\] to be a str but got 3"),
    ({"boxes": [WORD], "scores": [0.1, 0.2]}, r"'scores'.*1 shapes but got 2"),
    (
        {"boxes": [WORD], "texts": ["a"], "orientation_labels": []},
        r"'orientation_labels'.*1 shapes but got 0",
    ),
    ({"boxes": [WORD]}, r"bring 'texts'.*e2e=False"),
    ("boxes", "to be a dict"),
]


@pytest.mark.parametrize(("pred", "message"), BAD)
def test_bad_predictions_say_where(pred, message):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate([pred], [image([WORD], ["word"])])


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (image([WORD], ["word"], ignore=[True, False]), {}, r"target\[0\]\['ignore'\].*1 shapes but got 2"),
        (image([WORD], ["word"], ignore=[7]), {}, "booleans"),
        (image([WORD], ["word"]), {"scale_bins": (0, 1)}, "image_size"),
        (image([WORD], ["word"], image_size=(0, 5)), {"scale_bins": (0, 1)}, r"\(height, width\) above 0"),
        (image([WORD], ["word"]), {"scale_bins": (1, 0)}, "rising edges"),
        (image([WORD], ["word"]), {"num_threads": 0}, "num_threads"),
        (image([WORD], ["word"]), {"rules": "v2019"}, "v2019"),
        (
            image([WORD, [0, 0, 1, np.inf]], ["a", "b"], image_id="page.jpg"),
            {},
            r"image_id 'page.jpg'.*shape 1",
        ),
        (image([WORD], ["word"], image_id=1.5), {}, "image_id"),
    ],
)
def test_bad_targets_say_where(target, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate([image([WORD], ["word"])], [target], **options)


def test_lengths_of_the_sides_must_agree():
    with pytest.raises(ValueError, match="equally many images but got 2 and 1"):
        evaluate([image([], [])] * 2, [image([], [])])
    with pytest.raises(TypeError, match="single dict"):
        evaluate(image([], []), image([], []))


def test_empty_images_have_zero_counts():
    result = evaluate([image([], []), image([])], [image([], []), image([])])
    assert result.counts.sum() == 0
    assert set(result.scores().values()) == {0.0}
    assert evaluate([], []).scores()["mean_det_hmean"] == 0.0


def test_ground_truth_of_other_options_is_refused():
    kept = GroundTruth([image([WORD], ["word"])], "v2020")
    with pytest.raises(ValueError, match="encoded with rules"):
        evaluate([image([WORD], ["word"])], kept)


def test_orientation_accuracy_is_a_score_when_asked_for():
    pred = image([WORD, box(0, 20, 40, 30)], ["word", "word"], orientation_labels=[0, 90])
    target = image([WORD, box(0, 20, 40, 30)], ["word", "word"], orientation_labels=[0, 0])
    assert "orientation_accuracy" not in evaluate([pred], [target]).scores()
    assert evaluate([pred], [target], orientation=True).scores()["orientation_accuracy"] == 0.5
    metric = CLEvalMetric(orientation=True)
    metric.update([pred], [target])
    assert metric.compute()["orientation_accuracy"] == 0.5


@pytest.mark.parametrize("text", ["a\nb", "\n", "a\nb\x00c", ""])
def test_texts_may_hold_any_character(text):
    image = {"boxes": [[0, 0, 40, 10], [0, 20, 40, 30]], "texts": [text, "word"]}
    totals = evaluate([image], [image]).totals()
    assert totals["e2e_tp"] == totals["chars_gt"] == len(text) + 4


def test_a_match_may_hold_many_more_pairs_than_words():
    word = {"boxes": [[0, 0, 40, 10]], "texts": ["word"]}
    crowd = {"boxes": [[0, 0, 40 - k, 10] for k in range(20)], "texts": ["word"] * 20}
    match = evaluate([word, crowd], [word, word]).match(1)
    assert [pair.det for pair in match.pairs] == list(range(20))
    assert match.pairs[0].characters == match.pairs[1].characters == (0, 1, 2, 3)
    assert match.pairs[19].characters == (0, 1)
