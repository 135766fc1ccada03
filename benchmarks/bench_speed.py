"""Speed against the peers, each through its own public interface, on one thread."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import corpora
from benchmarks.peers import official, plain
from cleval_tm import CLEvalMetric, CLEvalRules, compat
from cleval_tm.lightning import CLEvalEvaluator

BATCH = 16
# A busy neighbour slows this machine by a third for seconds at a time. So that it does not decide a ratio, what takes
# milliseconds is measured for as long as its peer, which takes seconds.


def batches(count):
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def test_korean_documents_in_batches(benchmark, note, korean_documents):
    preds, targets = korean_documents
    metric = CLEvalMetric()

    def run():
        metric.reset()
        for batch in batches(len(preds)):
            metric.update(preds[batch], targets[batch])

    run()
    benchmark.pedantic(run, rounds=1500, warmup_rounds=2)
    assert metric.compute_counts()["det_tp"] == 46218
    note("CLEvalMetric.update, batches of 16", "Korean documents, batches of 16")


def test_korean_documents_one_by_one(benchmark, note, korean_documents):
    preds, targets = korean_documents
    metric = compat.CLEvalMetric()

    def run():
        metric.reset()
        for pred, target in zip(preds, targets, strict=True):
            metric.update(pred["polygons"], target["polygons"], pred["texts"], target["texts"])

    run()
    benchmark.pedantic(run, rounds=500, warmup_rounds=2)
    note("compat.CLEvalMetric.update, one image a call", "Korean documents, one image a call")


@pytest.mark.usefixtures("needs_official")
@pytest.mark.timeout(1200)
def test_korean_documents_by_the_official_class(benchmark, note, korean_documents):
    preds, targets = korean_documents
    metric = official.metric(CLEvalRules.v2023())
    official.update(metric, preds[0], targets[0])

    def run():
        metric.reset()
        for pred, target in zip(preds, targets, strict=True):
            official.update(metric, pred, target)

    benchmark.pedantic(run, rounds=3)
    assert official.totals(metric)["det_tp"] == 46218
    note(
        "cleval 0.1.1 CLEvalMetric.update",
        "Korean documents, batches of 16",
        "Korean documents, one image a call",
        role="peer",
    )


def test_curved_text(benchmark, note, total_text):
    preds, targets = total_text
    metric = CLEvalMetric()

    def run():
        metric.reset()
        for batch in batches(len(preds)):
            metric.update(preds[batch], targets[batch])

    run()
    benchmark.pedantic(run, rounds=100, warmup_rounds=2)
    note("CLEvalMetric.update, batches of 16", "TotalText polygons, batches of 16")


def test_curved_text_by_plain_shapely(benchmark, note, total_text):
    preds, targets = total_text
    rules = CLEvalRules.v2023()

    def run():
        for pred, target in zip(preds, targets, strict=True):
            plain.count_image(pred, target, rules)

    benchmark.pedantic(run, rounds=3)
    note("a plain implementation on shapely", "TotalText polygons, batches of 16", role="peer")


@pytest.fixture(scope="module")
def receipts():
    names, detected, annotated = corpora.receipts()
    return names, detected, SimpleNamespace(anns=dict(zip(names, annotated, strict=True)))


def predictions(detected):
    return [
        {"boxes": boxes, "orientation": 1, "raw_size": (720, 1280), "image_path": ""} for boxes in detected
    ]


def test_an_epoch_of_the_evaluator(benchmark, note, receipts):
    names, detected, dataset = receipts
    evaluator = CLEvalEvaluator(dataset)
    preds = predictions(detected)

    def run():
        evaluator.reset()
        for batch in batches(len(names)):
            evaluator.update(names[batch], preds[batch])
        evaluator.compute()

    run()
    benchmark.pedantic(run, rounds=10, warmup_rounds=1)
    note("CLEvalEvaluator, 404 receipts of 100 words, whole epoch", "Receipts, an epoch")


def test_compute_of_the_evaluator(benchmark, note, receipts):
    names, detected, dataset = receipts
    evaluator = CLEvalEvaluator(dataset)
    evaluator.update(names, predictions(detected))

    def forget_the_result():
        evaluator.metric._computed = None

    benchmark.pedantic(evaluator.compute, setup=forget_the_result, rounds=50)
    note("CLEvalEvaluator.compute after 404 receipts", "Receipts, compute at epoch end")


@pytest.mark.usefixtures("needs_official")
@pytest.mark.timeout(1200)
def test_receipts_by_the_official_class(benchmark, note, receipts):
    names, detected, dataset = receipts
    metric = official.metric(CLEvalRules.v2023())
    some = names[:40]
    pairs = [
        (
            {"polygons": found, "texts": [""] * len(found)},
            {"polygons": dataset.anns[name], "texts": ["words"] * 100},
        )
        for name, found in zip(some, detected, strict=False)
    ]

    def run():
        metric.reset()
        for pred, target in pairs:
            official.update(metric, pred, target)

    benchmark.pedantic(run, rounds=3)
    note("cleval 0.1.1 CLEvalMetric.update, 40 of the receipts", role="peer", images=40)
