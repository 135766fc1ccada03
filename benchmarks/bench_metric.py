"""What the metric costs around the counting: a batch, `forward`, a sync over two ranks, the evaluator's shell."""

from __future__ import annotations

import time
from types import ModuleType, SimpleNamespace

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from numba.core.dispatcher import Dispatcher

from benchmarks import corpora
from benchmarks.peers import official
from cleval_tm import CLEvalMetric, CLEvalRules, encode, evaluation, shapes, text
from cleval_tm.lightning import CLEvalEvaluator

BATCH = 16
SYNCS = 20
EPOCH = 400  # images of an epoch, when it is synced


@pytest.fixture(scope="module")
def batch(korean_documents):
    preds, target = korean_documents
    return preds[:BATCH], target[:BATCH]


def test_update_of_a_batch(benchmark, note, batch):
    metric = CLEvalMetric()
    benchmark.pedantic(metric.update, args=batch, rounds=50, warmup_rounds=3)
    note("CLEvalMetric.update, 16 documents", "Korean documents, update of a batch")


def test_forward_of_a_batch(benchmark, note, batch):
    metric = CLEvalMetric()
    for _ in range(EPOCH // BATCH):
        metric.update(*batch)
    benchmark.pedantic(metric, args=batch, rounds=50, warmup_rounds=3)
    note("CLEvalMetric.forward, 16 documents after 400", "Korean documents, forward of a batch")


@pytest.mark.usefixtures("needs_official")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", ["update", "forward"])
def test_a_batch_by_the_official_class(benchmark, note, batch, step):
    metric = official.metric(CLEvalRules.v2023())

    call = metric.update if step == "update" else metric

    def run():
        for pred, target in zip(*batch, strict=True):
            quads = official.quads(pred), official.quads(target)
            call(*quads, pred["texts"], target["texts"], target.get("ignore"))

    run()
    benchmark.pedantic(run, rounds=2)
    note(
        f"cleval 0.1.1 CLEvalMetric.{step}, 16 documents", f"Korean documents, {step} of a batch", role="peer"
    )


# ---------------------------------------------------------------- a sync over two ranks


def synced(metric, rank: int, folder: str) -> None:
    """The other rank: it computes as often as the benchmark does, and ends."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for _ in range(SYNCS + 1):
        metric._computed = None
        metric.compute()
    dist.destroy_process_group()


def other_rank(rank: int, metric, folder: str) -> None:
    synced(metric, 1, folder)


def of_an_epoch(kind: str, batch):
    if kind == "official":
        metric = official.metric(CLEvalRules.v2023())
        official.update(metric, batch[0][0], batch[1][0])
        return metric
    metric = CLEvalMetric(per_image=kind == "rows")
    for _ in range(EPOCH // BATCH // 2):
        metric.update(*batch)
    return metric


@pytest.mark.parametrize("kind", ["rows", "sums", "official"])
def test_compute_with_a_sync(benchmark, note, batch, kind, tmp_path, request):
    if kind == "official":
        request.getfixturevalue("needs_official")
    metric = of_an_epoch(kind, batch)
    context = mp.spawn(other_rank, args=(metric, str(tmp_path)), nprocs=1, join=False)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=2)

    def forget():
        metric._computed = None

    benchmark.pedantic(metric.compute, setup=forget, rounds=SYNCS, warmup_rounds=1)
    context.join()
    dist.destroy_process_group()
    what = "cleval 0.1.1 CLEvalMetric" if kind == "official" else f"CLEvalMetric, {kind} of 400 images"
    claims = [] if kind == "sums" else ["Compute with a sync over 2 ranks"]
    note(f"{what}: compute over 2 ranks", *claims, role="peer" if kind == "official" else "ours")


# ---------------------------------------------------------------- the share outside the kernels


def kernels_of(*rooms: ModuleType):
    """The compiled functions that these modules call."""
    return {
        (room, name): value
        for room in rooms
        for name, value in vars(room).items()
        if isinstance(value, Dispatcher)
    }


def timed(kernel, spent: list[float]):
    def call(*args):
        start = time.perf_counter()
        result = kernel(*args)
        spent.append(time.perf_counter() - start)
        return result

    return call


@pytest.mark.parametrize("what", ["update", "evaluator"])
def test_share_outside_the_kernels(benchmark, note, batch, what, monkeypatch):
    if what == "update":
        metric = CLEvalMetric()

        def run():
            metric.update(*batch)

    else:
        names, detected, annotated = corpora.receipts()
        evaluator = CLEvalEvaluator(SimpleNamespace(anns=dict(zip(names, annotated, strict=True))))
        preds = [{"boxes": boxes, "orientation": 1, "raw_size": (720, 1280)} for boxes in detected]

        def run():
            evaluator.reset()
            for start in range(0, len(names), BATCH):
                evaluator.update(names[start : start + BATCH], preds[start : start + BATCH])
            evaluator.compute()

    run()
    spent: list[float] = []
    for (room, name), kernel in kernels_of(encode, shapes, text, evaluation).items():
        monkeypatch.setattr(room, name, timed(kernel, spent))
    start = time.perf_counter()
    rounds = 10
    benchmark.pedantic(run, rounds=rounds)
    whole = time.perf_counter() - start
    share = 1 - sum(spent) / whole
    label = {
        "update": "CLEvalMetric.update, 16 documents",
        "evaluator": "CLEvalEvaluator, an epoch of 404 receipts",
    }
    figures = {"share_outside_the_kernels": round(share, 2)}
    if what == "evaluator":
        figures["images_per_second"] = round(404 * rounds / whole)
    note(f"{label[what]}, its kernels timed", **figures)
