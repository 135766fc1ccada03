"""What a second thread brings, beside what it brings to a loop that never takes the interpreter lock."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from cleval_tm import CLEvalRules, evaluate
from cleval_tm.counts import COUNTS
from cleval_tm.encode import encode, kernel_options
from cleval_tm.evaluation import count_range

REPEATS = 8
ROUNDS = 60  # some seconds: a neighbour on one of the cores slows the kernels, but not the loop, for as long
WHOLE_ROUNDS = 15


@numba.njit(nogil=True)
def spin(n):
    """A loop of dependent arithmetic: what two threads can gain at most on this machine."""
    x = 1.0
    for i in range(n):
        x = x * 0.999999 + i * 1e-9
    return x


def seconds(work, items, threads):
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(work, items))
        return time.perf_counter() - start


def gain(work, items):
    """Median over interleaved rounds of the time on one thread / the time on two."""
    work(items[0])
    ratios = [seconds(work, items, 1) / seconds(work, items, 2) for _ in range(ROUNDS)]
    return statistics.median(ratios)


def test_two_threads(benchmark, note, korean_documents):
    preds, targets = korean_documents
    rules = CLEvalRules.v2023()
    encoded, gt = encode(preds, targets, rules, e2e=True, scale_bins=None)
    options = kernel_options(rules, e2e=True)

    def count(chunk):
        table = np.zeros((chunk[1] - chunk[0], 1, len(COUNTS)), np.int64)
        count_range(encoded, gt, *chunk, options, table)

    chunks = [(start, min(start + 10, len(gt))) for start in range(0, len(gt), 10)] * REPEATS
    loop = gain(spin, [2_000_000] * len(chunks))
    kernels = gain(count, chunks)
    many = (preds * REPEATS, targets * REPEATS)
    whole = statistics.median(
        _evaluate_seconds(many, 1) / _evaluate_seconds(many, 2) for _ in range(WHOLE_ROUNDS)
    )
    assert (evaluate(preds, targets, num_threads=2).counts == evaluate(preds, targets).counts).all()
    benchmark.pedantic(evaluate, args=many, kwargs={"num_threads": 2}, rounds=5)
    note(
        "800 Korean documents, 2 threads against 1",
        gain_of_a_pure_loop=loop,
        gain_of_the_kernels=kernels,
        kernels_against_loop=kernels / loop,
        gain_of_evaluate=whole,
    )


def _evaluate_seconds(images, threads):
    start = time.perf_counter()
    evaluate(*images, num_threads=threads)
    return time.perf_counter() - start
