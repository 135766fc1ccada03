"""Against the published package ``cleval`` 0.1.1: every count it has is equal, image by image."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings

from benchmarks.peers import official
from cleval_tm import COUNTS, CLEvalRules, evaluate

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(official.missing() is not None, reason=str(official.missing())),
    pytest.mark.filterwarnings("ignore"),
]

RULES = (
    CLEvalRules.v2023(),
    CLEvalRules.v2023(case_sensitive=False),
    CLEvalRules.v2023(ap_constraint=0.5),
    CLEvalRules.v2023(ap_constraint=0.7, vertical_aspect_ratio_thresh=1.5),
    CLEvalRules.v2023(ap_constraint=0.0),
    CLEvalRules.v2023(ap_constraint=1.0),
)
COMPARED = [COUNTS.index(name) for name in official.COMPARED]
Images = list[dict[str, Any]]


def differences(preds: Images, target: Images, rules: CLEvalRules, *, e2e: bool = True) -> list[str]:
    """Where ours, counted in one batch, are not the package's."""
    ours = evaluate(preds, target, rules, e2e=e2e).counts
    found = []
    for i, (pred, truth) in enumerate(zip(preds, target, strict=True)):
        theirs = official.count_image(pred, truth, rules, e2e=e2e)
        found += [
            f"image {i}: {name} {int(ours[i, column])}, {theirs[name]} by the package"
            for name, column in zip(official.COMPARED, COMPARED, strict=True)
            if ours[i, column] != theirs[name] and (e2e or not name.startswith(("e2e", "recognition")))
        ]
    return found


@datasets.needs_data
@pytest.mark.parametrize("name", ["eval_doc_v1_kr", "IC13_self", "IC15_real_detections", "IC15_perturbed"])
def test_real_files(name: str) -> None:
    preds, target = (side[::2] for side in datasets.images(name))
    assert not differences(preds, target, RULES[0], e2e=datasets.has_texts(name))


@pytest.mark.parametrize("rules", RULES, ids=["default", "any case", "0.5", "0.7, vertical", "0", "1"])
def test_random_images(rules: CLEvalRules) -> None:
    preds, target = strategies.random_images(500, first_seed=500 * RULES.index(rules))
    assert not differences(preds, target, rules)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(image=strategies.images())
def test_small_images(image: strategies.Pair) -> None:
    pred, target = image
    assert not differences([pred], [target], RULES[0])


def test_irregular_shapes() -> None:
    """Rings that cross themselves, repeat points, are flat: equal wherever the package survives them."""
    preds, target = strategies.random_images(250, first_seed=50_200, irregular=0.3)
    ours = evaluate(preds, target).counts[:, COMPARED]
    survived = 0
    for row, theirs in zip(ours, official.count_images_apart(preds, target, RULES[0]), strict=True):
        if theirs is not None:
            survived += 1
            assert dict(zip(official.COMPARED, row.tolist(), strict=True)) == theirs
    assert survived > 245


def test_metric_and_scale_bins() -> None:
    """The package's own class, its states summed over images and in its scale bins."""
    preds, target = strategies.random_images(60, first_seed=70_000)
    preds = [_on_whole_pixels(image) for image in preds]
    # At 4 times the size, no word is larger than its image: those the class would ignore everywhere.
    target = [
        {**_on_whole_pixels(image), "image_size": (10, 4 * max(image["image_size"]))} for image in target
    ]
    edges = (0.0, 0.005, 0.025, 0.1, 0.5, 1.0)
    metric = official.metric(RULES[0], edges)
    for pred, truth in zip(preds, target, strict=True):
        official.update(metric, pred, truth)
    result = evaluate(preds, target, RULES[0], scale_bins=edges)
    theirs = official.totals(metric)
    assert {name: result.totals()[name] for name in theirs} == theirs
    assert result.scale_counts is not None
    for at, bin_metric in enumerate(metric.scalewise_metric.values()):
        ours = dict(zip(COUNTS, result.scale_counts[:, at].sum(axis=0).tolist(), strict=True))
        theirs = official.totals(bin_metric)
        assert {name: ours[name] for name in theirs} == theirs


def _on_whole_pixels(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "polygons": np.trunc(image["polygons"])}


@pytest.mark.parametrize("moved", [20_000.0, 1_000_000.5])
def test_far_from_the_origin(moved: float) -> None:
    preds, target = (
        [{**image, "polygons": image["polygons"] + moved} for image in side]
        for side in strategies.random_images(200, first_seed=60_000)
    )
    assert not differences(preds, target, RULES[0])


def test_detection_alone() -> None:
    preds, target = strategies.random_images(200, first_seed=80_000)
    without_texts = [{"polygons": image["polygons"]} for image in preds]
    assert not differences(without_texts, target, RULES[0], e2e=False)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_random_images(request: pytest.FixtureRequest) -> None:
    count, seed = datasets.long_run(request, 20_000)
    for at, rules in enumerate(RULES):
        for first in range(seed + at, seed + count, len(RULES) * 500):
            seeds = range(first, min(first + len(RULES) * 500, seed + count), len(RULES))
            pairs = [strategies.random_image(s) for s in seeds]
            found = differences([pred for pred, _ in pairs], [truth for _, truth in pairs], rules)
            assert not found, f"{rules}, seeds {seeds}: {found}"


# Reduced from failures.
QUAD = [[0, 0], [10, 0], [10, 10], [0, 10]]
REDUCED = {
    "a detection that reads ### gets a run of its pseudo length": (
        {"polygons": [[[54, 43], [52, 32], [55, 31], [55, 43]]], "texts": ["###"]},
        {"polygons": [], "texts": []},
    ),
    "a word without signed area is still hit by the even-odd rule": (
        {"polygons": [QUAD], "texts": ["abcd"]},
        {"polygons": [[[0, 0], [10, 0], [0, 10], [10, 10]]], "texts": ["abcd"]},
    ),
    "an ignored word that is covered wholly by another": (
        {"polygons": [QUAD], "texts": ["a"]},
        {"polygons": [QUAD, [[2, 2], [8, 2], [8, 8], [2, 8]]], "texts": ["a", "b"], "ignore": [False, True]},
    ),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reduced(name: str) -> None:
    pred, target = ({**image, "polygons": np.array(image["polygons"], float)} for image in REDUCED[name])
    pred["polygons"], target["polygons"] = (image["polygons"].reshape(-1, 4, 2) for image in (pred, target))
    assert not differences([pred], [target], RULES[0])


@pytest.mark.parametrize(("width", "widths"), [(160, (18, 1, 13, 16)), (150, (14, 4, 6, 21))])
def test_set_order(width: int, widths: tuple[int, int, int, int]) -> None:
    pred, target = strategies.image_where_set_order_decides(width, widths)
    assert not differences([pred], [target], RULES[0])
