"""The drop-ins, beside the classes that they replace."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies import random_images

from cleval_tm import compat
from cleval_tm.io import pair, read_icdar

KEYS = [
    *("det_r", "det_p", "det_h", "e2e_r", "e2e_p", "e2e_h"),
    *("num_splitted", "num_merged", "num_char_overlapped", "scale_wise"),
]
WORD = [10, 10, 90, 10, 90, 30, 10, 30]
LOW = [10, 50, 90, 50, 90, 70, 10, 70]


@pytest.fixture(scope="module")
def official():
    return pytest.importorskip(
        "cleval", reason="the official package is not installed (extra `oracle`)"
    ).CLEvalMetric


def flat(polygons) -> np.ndarray:
    return np.asarray(polygons, dtype=np.float32).reshape(-1, 8)


def documents(data):
    preds, target = pair(
        read_icdar(data / "gt_eval_doc_v1_kr.zip"), read_icdar(data / "res_eval_doc_v1_kr.zip")
    )
    for pred, truth in zip(preds, target, strict=True):
        letters = truth["texts"]
        flags = [text == "###" for text in letters]
        yield flat(pred["polygons"]), flat(truth["polygons"]), pred["texts"], letters, flags


def test_the_published_figures_one_image_at_a_time(data):
    metric = compat.CLEvalMetric()
    for document in documents(data):
        metric(*document)
    result = metric.compute()
    assert list(result) == KEYS
    assert result["det_h"].item() == pytest.approx(0.977989360950786, abs=1e-6)
    assert result["e2e_h"].item() == pytest.approx(0.9165773847119407, abs=1e-6)
    assert [result[name].item() for name in KEYS[6:9]] == [377, 470, 448]


def test_the_signatures_are_the_official_ones(official):
    for ours, theirs in ((compat.CLEvalMetric, official), (compat.CLEvalMetric.update, official.update)):
        mine, given = (inspect.signature(one).parameters for one in (ours, theirs))
        assert list(mine) == list(given)
        assert [one.default for one in mine.values()] == [one.default for one in given.values()]


@pytest.mark.oracle
def test_the_official_test_passes_with_the_import_changed(official, data, tmp_path, monkeypatch):
    """Of the package's own tests, the one of its metric; it finds its files in the working directory."""
    source = importlib.util.find_spec("tests.test_scores")
    if source is None or source.origin is None or "site-packages" not in source.origin:
        pytest.skip("this build of the official package brings no tests")
    text = Path(source.origin).read_text()
    changed = text.replace("from cleval import CLEvalMetric", "from cleval_tm.compat import CLEvalMetric")
    assert changed != text
    for side, name in (("gt", "gt_eval_doc_v1_kr.zip"), ("pred", "res_eval_doc_v1_kr.zip")):
        folder = tmp_path / "resources" / "test_data" / side
        folder.mkdir(parents=True)
        shutil.copy(data / name, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cleval"])
    namespace: dict[str, Any] = {"__name__": "official_test"}
    exec(compile(changed, source.origin, "exec"), namespace)
    namespace["test_output_score_torchmetric"]()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"case_sensitive": False, "ap_constraint": 0.5},
        {"recall_gran_penalty": 0.5, "precision_gran_penalty": 0.25, "vertical_aspect_ratio_thresh": 1.5},
        {"scale_wise": True},
        {"scale_wise": True, "scale_bins": (0.0, 0.02, 0.2), "scale_range": (0.01, 0.1)},
        {"scale_range": (0.0, 0.05)},
    ],
    ids=str,
)
def test_results_equal_the_official_ones(official, options):
    ours, theirs = compat.CLEvalMetric(**options), official(**options)
    preds, target = random_images(30, first_seed=5000)
    for pred, truth in zip(preds, target, strict=True):
        quads, gt_quads = flat(pred["polygons"]).astype(np.int32), flat(truth["polygons"]).astype(np.int32)
        if not len(gt_quads):
            continue  # the official class fails on some of these
        flags = truth["ignore"].tolist() if "ignore" in truth else [text == "###" for text in truth["texts"]]
        longer = 1000
        arguments = (
            quads.astype(np.float32),
            gt_quads.astype(np.float32),
            pred["texts"],
            truth["texts"],
            flags,
        )
        if "scale_wise" in options or "scale_range" in options:
            arguments = (*arguments, longer)
        theirs.update(*arguments)
        ours.update(*arguments)
    compare(ours.compute(), theirs.compute())


def compare(mine, given):
    assert list(mine) == list(given)
    for name, value in given.items():
        if name == "scale_wise":
            assert list(mine[name]) == list(value)
            for edges, result in value.items():
                compare(mine[name][edges], result)
        else:
            assert float(mine[name]) == pytest.approx(float(value), abs=1e-6), name


def test_detection_without_texts():
    metric = compat.CLEvalMetric()
    metric.update([WORD], [WORD, LOW])
    metric.update(np.array([WORD]), torch.tensor([WORD], dtype=torch.bfloat16), gt_is_dcs=[False])
    result = metric.compute()
    assert result["det_p"] == 1
    assert 0.6 < result["det_r"] < 0.7
    assert result["e2e_h"] == 0


def test_texts_on_one_side_alone_set_the_lengths():
    metric = compat.CLEvalMetric()
    metric.update([WORD], [WORD, LOW], gt_letters=["long", "w"])
    assert metric.compute()["det_r"].item() == pytest.approx(0.8)


def test_ignored_words_need_no_text():
    metric = compat.CLEvalMetric()
    metric.update([WORD, LOW], [WORD, LOW], ["a", "b"], ["a", None], [False, True])
    metric.update([WORD, LOW], [WORD, LOW], ["a", "b"], ["a", "###"], [None, None])
    metric.update([WORD, LOW], [WORD, LOW], ["a", "b"], ["a", "###"])
    assert metric.compute()["e2e_h"] == 1
    assert metric.compute_counts()["ignored_gt"] == 3


def test_columns_of_other_lengths_are_an_error():
    metric = compat.CLEvalMetric()
    for letters, flags in ((["a", "b"], [False]), (["a"], [False, None]), (["a", "b"], [False, True])):
        with pytest.raises(ValueError, match=r"target\[0\].*one entry for each of 1 shapes"):
            metric.update([WORD], [WORD], ["a"], letters, flags)
    assert metric.update_count == 0


def test_plot():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed").use("Agg")
    metric = compat.UpstageCLEvalMetric()
    steps = [metric([WORD], [WORD]), metric([LOW], [WORD])]
    for figure, axes in (metric.plot(), metric.plot(steps)):
        assert figure is not None
        assert axes.get_ylim()[1] >= 1


def test_an_image_without_words_or_detections():
    metric = compat.CLEvalMetric()
    for empty in ([], np.zeros((0, 8)), torch.zeros(0, 8)):
        metric.update(empty, empty, [], [], [])
        metric.update(empty, [WORD], [], ["word"], [False])
    assert metric.compute()["det_r"] == 0
    assert all(float(value) == 0 for name, value in metric.compute().items() if name != "scale_wise")


def test_scale_wise_needs_the_size_and_says_so():
    metric = compat.CLEvalMetric(scale_wise=True)
    with pytest.raises(ValueError, match="`img_longer_length`"):
        metric.update([WORD], [WORD], ["a"], ["a"], [False])
    assert metric.update_count == 0


def test_scale_wise_sees_every_forward():
    metric = compat.CLEvalMetric(scale_wise=True, scale_bins=(0.0, 0.1, 1.0))
    for _ in range(2):
        metric([WORD], [WORD], ["a" * 14], ["a" * 14], [False], 1000)
    assert list(metric.compute()["scale_wise"]) == [(0.0, 0.1), (0.1, 1.0)]
    assert metric.compute()["scale_wise"][0.0, 0.1]["det_r"] == 1
    assert metric._joined()[0, 1 + len(compat.COUNTS)] == 28


def test_a_word_wider_than_the_image_is_out_of_range():
    metric = compat.CLEvalMetric()
    metric.update([WORD], [WORD], ["a"], ["a"], [False], 10)
    assert metric.compute_counts()["ignored_gt"] == 1


def test_the_result_is_the_users():
    metric = compat.CLEvalMetric()
    metric.update([WORD], [WORD], ["a"], ["a"], [False])
    first = metric.compute()
    first["det_h"].zero_()
    first.clear()
    assert metric.compute()["det_h"] == 1


def test_upstage_as_the_host_uses_it():
    metric = compat.UpstageCLEvalMetric()
    metric.reset()
    curved = [0, 100, 40, 90, 80, 100, 80, 120, 40, 110, 0, 120]
    batch = metric([WORD, curved], [WORD, curved, LOW])
    result = metric.compute()
    assert list(result) == [
        "precision",
        "recall",
        "f1",
        "num_splitted",
        "num_merged",
        "num_char_overlapped",
        "scale_wise",
    ]
    assert result["precision"].item() == 1
    assert 0 < result["f1"].item() < 1
    assert batch["f1"] == result["f1"]


def test_upstage_reads_so_many_detections_and_skips_broken_ones():
    metric = compat.UpstageCLEvalMetric(max_polygons=1)
    metric.update([LOW, WORD], [WORD])
    assert metric.compute()["f1"] == 0
    whole = compat.UpstageCLEvalMetric(max_polygons=None)
    with pytest.warns(UserWarning, match="left out"):
        whole.update([WORD, WORD[:7], WORD[:4]], [WORD])
    assert whole.compute()["f1"] == 1


def test_upstage_by_hydra():
    instantiate = pytest.importorskip("hydra.utils", reason="hydra is not installed").instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {
            "_target_": "cleval_tm.compat.UpstageCLEvalMetric",
            "dist_sync_on_step": False,
            "case_sensitive": True,
            "recall_gran_penalty": 1.0,
            "precision_gran_penalty": 1.0,
            "vertical_aspect_ratio_thresh": 0.5,
            "ap_constraint": 0.3,
            "scale_wise": True,
            "scale_bins": [0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.1, 0.5, 1.0],
            "scale_range": [0.0, 1.0],
            "max_polygons": 500,
        }
    )
    metric = instantiate(config)
    metric([WORD], [WORD], img_longer_length=1000)
    assert metric.compute()["scale_wise"][0.01, 0.015]["num_merged"] == 0
    assert len(metric.compute()["scale_wise"]) == 8


@pytest.mark.parametrize("name", ["eval_doc_v1_kr", "IC15_real_detections"])
def test_upstage_gives_the_forks_figures(data, reference, name):
    truth = reference[name]["upstage"]
    gt = read_icdar(data / reference[name]["gt"])
    res = read_icdar(data / reference[name]["res"], text=name != "IC15_real_detections")
    metric = compat.UpstageCLEvalMetric()
    scores, counts = [], []
    for pred, image in zip(*pair(gt, res), strict=True):
        metric.reset()
        metric(flat(pred["polygons"]).tolist(), flat(image["polygons"]).tolist())
        result = metric.compute()
        scores.append([result[key].item() for key in ("recall", "precision", "f1")])
        counts.append([result[key].item() for key in KEYS[6:9]])
    assert np.sum(counts, axis=0).tolist() == [truth[key] for key in KEYS[6:9]]
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(truth["mean_recall"], abs=1e-6)
    # on exact rectangles the fork's false positives are arbitrary, and precision follows them
    assert mean[1:] == pytest.approx([truth["mean_precision"], truth["mean_hmean"]], abs=1e-2)


def test_it_keeps_the_contract_of_the_metric():
    metric = compat.CLEvalMetric()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute()["det_h"] == 0
    twin = compat.CLEvalMetric(scale_range=(0.0, 0.5))
    with pytest.raises(ValueError, match="same options"):
        metric.merge_state(twin)
    metric.half().set_dtype(torch.half)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update([WORD], [WORD], ["a"], ["a"])
        assert metric.compute()["e2e_h"].dtype == torch.float32
