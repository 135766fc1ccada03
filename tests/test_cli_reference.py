"""Every figure that the published implementations printed, by ``cleval-tm evaluate`` on the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import run

# names in the reference -> names here
V2023 = {
    "num_char_gt": "chars_gt",
    "num_char_det": "chars_det",
    "gran_score_recall": "recall_granularity",
    "gran_score_precision": "precision_granularity",
    "num_char_tp_recall": "det_tp",
    "num_char_tp_precision": "det_tp",
    "num_char_fp": "det_fp_chars",
}
E2E = {
    "chars_gt": "chars_gt",
    "chars_det": "e2e_chars_det",
    "det_tp": "e2e_tp",
    "det_fp_chars": "e2e_fp_chars",
    "recall_granularity": "recall_granularity",
    "precision_granularity": "precision_granularity",
}
SHARED = {"num_splitted": "splits", "num_merged": "merges", "num_char_overlapped": "overlaps"}


def evaluated(data: Path, case: dict[str, Any], tmp_path: Path, *flags: object) -> dict[str, Any]:
    out = tmp_path / "out.json"
    files = ["-g", data / case["gt"], "-s", data / case["res"], "--box-type", case["box_type"].lower()]
    run("evaluate", *files, "--json", out, *flags)
    return json.loads(out.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["eval_doc_v1_kr", "IC13_self", "IC15_real_detections", "IC15_perturbed"])
def test_v2023(data, reference, tmp_path, name):
    case = reference[name]
    out = evaluated(data, case, tmp_path)
    counts, scores = out["counts"], out["scores"]
    assert counts["images"] == case["images"]
    assert out["e2e"] == ("e2e" in case["v2023"])
    for kind in ("det", "e2e") if out["e2e"] else ("det",):
        for theirs, value in case["v2023"][kind].items():
            if theirs in ("recall", "precision", "hmean"):
                assert scores[f"{kind}_{theirs}"] == pytest.approx(value, rel=1e-15, abs=0)
            else:
                assert counts[V2023[theirs] if kind == "det" else E2E[V2023[theirs]]] == value, (kind, theirs)
    for theirs, ours in SHARED.items():
        assert counts[ours] == case["v2023"][theirs]


@pytest.mark.parametrize("name", ["eval_doc_v1_kr", "IC15_perturbed", "TotalText_perturbed"])
def test_v2020(data, reference, tmp_path, name):
    case = reference[name]
    out = evaluated(data, case, tmp_path, "--rules", "v2020")
    counts, scores, theirs = out["counts"], out["scores"], dict(case["v2020"]["counts"])
    sums = {kind: theirs.pop(f"{kind}_correct_num_recall") for kind in ("det", "e2e")}
    precision_sums = {kind: theirs.pop(f"{kind}_correct_num_precision") for kind in ("det", "e2e")}
    assert theirs == {
        "chars_gt": counts["chars_gt"],
        "chars_det": counts["chars_det"],
        "num_splitted": counts["splits"],
        "num_merged": counts["merges"],
        "num_false_positive": counts["false_positives"],
        "char_missed": counts["chars_gt"] - counts["det_tp"],
        "char_overlapped": counts["overlaps"],
        "char_false_positive": counts["det_fp_chars"],
        "chars_recog": counts["e2e_chars_det"],
        "e2e_char_missed": counts["chars_gt"] - sums["e2e"],
        "e2e_char_false_positive": counts["e2e_fp_chars"],
        "e2e_recog_score_chars": counts["recognition_chars"],
        "e2e_recog_score_correct_num": counts["e2e_tp"],
    }
    # sums of each image's clamped (true positives - penalty), which the totals alone do not give
    assert scores["det_recall"] * counts["chars_gt"] == pytest.approx(sums["det"], abs=1e-6)
    assert scores["e2e_recall"] * counts["chars_gt"] == pytest.approx(sums["e2e"], abs=1e-6)
    assert scores["det_precision"] * counts["chars_det"] == pytest.approx(precision_sums["det"], abs=1e-6)
    assert scores["e2e_precision"] * counts["e2e_chars_det"] == pytest.approx(precision_sums["e2e"], abs=1e-6)
    renamed = {"e2e_recognition_score": "recognition_score"}
    for score, value in case["v2020"]["scores"].items():
        assert scores[renamed.get(score, score)] == pytest.approx(value, rel=1e-15, abs=0)


@pytest.mark.parametrize("name", ["eval_doc_v1_kr", "IC15_real_detections"])
def test_upstage(data, reference, tmp_path, name):
    case = reference[name]
    out = evaluated(data, case, tmp_path, "--rules", "upstage")
    counts, theirs = out["counts"], case["upstage"]
    assert counts["ignored_gt"] == 0
    for name, value in theirs.items():
        if name.startswith("det_") and name not in ("det_num_char_fp", "det_num_char_det", "det_num_char_tp"):
            assert counts[V2023[name.removeprefix("det_")]] == value
    assert counts["det_tp"] == theirs["det_num_char_tp"]
    # the fork's false positives are arbitrary on exact rectangles; what is detected besides them is not
    expected = theirs["det_num_char_det"] - theirs["det_num_char_fp"]
    assert counts["chars_det"] - counts["det_fp_chars"] == expected
    for name, ours in SHARED.items():
        assert counts[ours] == theirs[name]
    assert out["scores"]["mean_det_recall"] == pytest.approx(theirs["mean_recall"], rel=1e-15, abs=0)


def test_scale_wise(data, reference, tmp_path):
    case = reference["IC15_perturbed"]
    side = case["v2023_scale_wise"]["image_long_side"]
    flags = ["--scale-bins", "default", "--image-sizes", f"{side}x720"]
    out = evaluated(data, case, tmp_path, *flags)
    bins = case["v2023_scale_wise"]["bins"]
    assert len(out["scale_counts"]) == len(bins)
    for (label, theirs), (our_label, counts) in zip(bins.items(), out["scale_counts"].items(), strict=True):
        assert our_label == f"scale_{label.replace('-', '_')}"
        for name, value in theirs.items():
            if name in SHARED:
                ours = SHARED[name]
            elif name.startswith("e2e_"):
                ours = E2E[V2023[name.removeprefix("e2e_")]]
            else:
                ours = V2023[name.removeprefix("det_")]
            assert counts[ours] == value, (label, name)
