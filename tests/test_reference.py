"""The figures that each published implementation printed on the published files: every one is equal."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from benchmarks.peers import plain
from cleval_tm import COUNTS, CLEvalRules, evaluate

pytestmark = datasets.needs_data

V2023 = ("eval_doc_v1_kr", "IC13_self", "IC15_real_detections", "IC15_perturbed")
V2020 = ("eval_doc_v1_kr", "IC15_perturbed", "TotalText_perturbed")
UPSTAGE = ("eval_doc_v1_kr", "IC15_real_detections")
_SHARED = {
    "num_char_gt": "chars_gt",
    "gran_score_recall": "recall_granularity",
    "gran_score_precision": "precision_granularity",
}
DET = {
    **_SHARED,
    "num_char_det": "chars_det",
    "num_char_tp": "det_tp",
    "num_char_tp_recall": "det_tp",
    "num_char_tp_precision": "det_tp",
    "num_char_fp": "det_fp_chars",
}
E2E = {
    **_SHARED,
    "num_char_det": "e2e_chars_det",
    "num_char_tp_recall": "e2e_tp",
    "num_char_tp_precision": "e2e_tp",
    "num_char_fp": "e2e_fp_chars",
}
BOTH = {"num_splitted": "splits", "num_merged": "merges", "num_char_overlapped": "overlaps"}


def figures_of(name: str, rules: str) -> dict:
    return datasets.reference()[name][rules]


def test_no_figure_is_left_out() -> None:
    reference = datasets.reference()
    for rules, names in (("v2023", V2023), ("v2020", V2020), ("upstage", UPSTAGE)):
        assert names == tuple(name for name in reference if rules in reference[name])
    assert [name for name in reference if "v2023_scale_wise" in reference[name]] == ["IC15_perturbed"]


@pytest.mark.parametrize("name", V2023)
def test_v2023(name: str) -> None:
    figures = figures_of(name, "v2023")
    preds, target = datasets.images(name)
    assert len(target) == datasets.reference()[name]["images"]
    result = evaluate(preds, target, "v2023", e2e=datasets.has_texts(name))
    totals, scores = result.totals(), result.scores()
    ours, theirs = {}, {}
    for kind, counts in (("det", DET), ("e2e", E2E)):
        for key, value in figures.get(kind, {}).items():
            theirs[kind, key] = value
            ours[kind, key] = totals[counts[key]] if key in counts else scores[f"{kind}_{key}"]
    for key, column in BOTH.items():
        ours[key], theirs[key] = totals[column], figures[key]
    assert ours == theirs
    assert ("e2e", "hmean") in theirs or not datasets.has_texts(name)


@pytest.mark.parametrize("name", V2020)
def test_v2020(name: str) -> None:
    figures = figures_of(name, "v2020")
    result = evaluate(*datasets.images(name), "v2020")
    totals, scores = result.totals(), result.scores()

    def clamped(tp: str, penalty: str) -> int:
        columns = [result.counts[:, COUNTS.index(column)] for column in (tp, penalty)]
        return int(np.maximum(columns[0] - columns[1], 0).sum())

    ours = {
        "det_correct_num_recall": clamped("det_tp", "recall_granularity"),
        "det_correct_num_precision": clamped("det_tp", "precision_granularity"),
        "chars_gt": totals["chars_gt"],
        "chars_det": totals["chars_det"],
        "num_splitted": totals["splits"],
        "num_merged": totals["merges"],
        "num_false_positive": totals["false_positives"],
        "char_missed": totals["chars_gt"] - totals["det_tp"],
        "char_overlapped": totals["overlaps"],
        "char_false_positive": totals["det_fp_chars"],
        "e2e_correct_num_recall": clamped("e2e_tp", "recall_granularity"),
        "e2e_correct_num_precision": clamped("e2e_tp", "precision_granularity"),
        "chars_recog": totals["e2e_chars_det"],
        "e2e_char_missed": totals["chars_gt"] - clamped("e2e_tp", "recall_granularity"),
        "e2e_char_false_positive": totals["e2e_fp_chars"],
        "e2e_recog_score_chars": totals["recognition_chars"],
        "e2e_recog_score_correct_num": totals["e2e_tp"],
    }
    assert ours == figures["counts"]
    renamed = {
        key.replace("e2e_recognition", "recognition"): score for key, score in figures["scores"].items()
    }
    assert {key: scores[key] for key in renamed} == renamed


@pytest.mark.parametrize("name", UPSTAGE)
def test_upstage(name: str) -> None:
    """All but the characters of false positives, which that fork leaves to Qhull's starting vertex."""
    figures = figures_of(name, "upstage")
    preds, target = datasets.images(name)
    preds = [{"polygons": image["polygons"]} for image in preds]
    target = [
        {"polygons": image["polygons"], "ignore": np.zeros(len(image["polygons"]), dtype=bool)}
        for image in target
    ]
    result = evaluate(preds, target, "upstage", e2e=False)
    totals = result.totals()
    columns = {**{f"det_{key}": column for key, column in DET.items()}, **BOTH}
    free = ("det_num_char_det", "det_num_char_fp")
    theirs = {key: value for key, value in figures.items() if key in columns and key not in free}
    assert {key: totals[columns[key]] for key in theirs} == theirs
    assert len(theirs) == 7
    assert (
        totals["chars_det"] - totals["det_fp_chars"]
        == figures["det_num_char_det"] - figures["det_num_char_fp"]
    )
    assert result.scores()["mean_det_recall"] == figures["mean_recall"]


def test_v2023_scale_wise() -> None:
    figures = figures_of("IC15_perturbed", "v2023_scale_wise")
    preds, target = datasets.images("IC15_perturbed")
    target = [{**image, "image_size": (720, figures["image_long_side"])} for image in target]
    labels = list(figures["bins"])
    edges = [float(labels[0].split("-")[0]), *(float(label.split("-")[1]) for label in labels)]
    result = evaluate(preds, target, "v2023", scale_bins=edges)
    assert result.scale_counts is not None
    columns = {
        **{f"det_{key}": column for key, column in DET.items()},
        **{f"e2e_{key}": column for key, column in E2E.items()},
        **BOTH,
    }
    for at, label in enumerate(labels):
        totals = dict(zip(COUNTS, result.scale_counts[:, at].sum(axis=0).tolist(), strict=True))
        theirs = figures["bins"][label]
        assert {key: totals[columns[key]] for key in theirs} == theirs, label


@pytest.mark.parametrize("rules", ["v2023", "v2020", "upstage"])
def test_threads_and_order_do_not_show_on_real_files(rules: str) -> None:
    preds, target = datasets.images("eval_doc_v1_kr")
    one = evaluate(preds, target, CLEvalRules.named(rules))
    two = evaluate(preds[::-1], target[::-1], CLEvalRules.named(rules), num_threads=3)
    np.testing.assert_array_equal(one.counts, two.counts[::-1])
    assert one.scores() == two.scores()


@pytest.mark.long
@pytest.mark.parametrize("rules", ["v2023", "v2020", "upstage"])
@pytest.mark.parametrize("name", V2023 + V2020[-1:])
def test_the_plain_implementation_agrees_image_by_image(
    name: str, rules: str, request: pytest.FixtureRequest
) -> None:
    datasets.long_run(request, 0)
    preds, target = datasets.images(name)
    e2e = datasets.has_texts(name)
    row = CLEvalRules.named(rules)
    result = evaluate(preds, target, row, e2e=e2e)
    for i, (pred, truth) in enumerate(zip(preds, target, strict=True)):
        theirs = plain.count_image(pred, truth, row, e2e=e2e)
        ours = dict(zip(COUNTS, result.counts[i].tolist(), strict=True))
        if not e2e:  # of detections without texts, the plain implementation counts no letters
            theirs = {key: ours[key] if key.startswith(("e2e", "recog")) else theirs[key] for key in theirs}
        assert ours == theirs, result.image_ids[i]
