"""How time and memory grow with the words of one image."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from benchmarks import corpora
from benchmarks.peers import official
from cleval_tm import CLEvalRules, evaluate
from cleval_tm.evaluation import count_images

WORDS = (1_000, 3_000, 10_000, 30_000, 100_000)
OFFICIAL_WORDS = (50, 100, 200, 400)


def slope(xs, ys):
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def fastest(function, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory(function):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("hard", [False, True], ids=["grid", "turned, 5 % ten words long"])
def test_growth(benchmark, note, hard):
    rules = CLEvalRules.v2023()
    work, seconds, peaks = [], [], []
    for words in WORDS:
        preds, targets = corpora.page(words, hard=hard)
        result = evaluate(preds, targets)
        work.append(2 * words + len(result.match(0).pairs))
        seconds.append(fastest(lambda p=preds, t=targets: count_images(p, t, rules), 5))
        peaks.append(peak_memory(lambda p=preds, t=targets: count_images(p, t, rules)))
    preds, targets = corpora.page(WORDS[0], hard=hard)
    benchmark.pedantic(count_images, args=(preds, targets, rules), rounds=20, warmup_rounds=1)
    kind = "turned words, 5 % ten words long" if hard else "a grid of words"
    note(
        f"one image of 1,000 to 100,000 words: {kind}",
        exponent_of_time=slope(work, seconds),
        exponent_of_memory=slope(work, peaks),
        words=list(WORDS),
        work=work,
        seconds=seconds,
        peak_bytes=peaks,
    )


@pytest.mark.usefixtures("needs_official")
@pytest.mark.timeout(1200)
def test_growth_of_the_official_class(benchmark, note):
    metric = official.metric(CLEvalRules.v2023())
    seconds = []
    for words in OFFICIAL_WORDS:
        (pred,), (target,) = corpora.page(words, hard=False)
        seconds.append(fastest(lambda p=pred, t=target: official.update(metric, p, t), 2))
    (pred,), (target,) = corpora.page(OFFICIAL_WORDS[0], hard=False)
    benchmark.pedantic(official.update, args=(metric, pred, target), rounds=3)
    note(
        "cleval 0.1.1: one image of 50 to 400 words",
        role="peer",
        exponent_of_time=slope(OFFICIAL_WORDS, seconds),
        words=list(OFFICIAL_WORDS),
        seconds=seconds,
    )
