"""Files evaluated by several processes: ``torchrun --nproc-per-node N -m cleval_tm evaluate ...``.

Each process counts every N-th image; rank 0 collects the rows. An image's counts depend on no other image,
so the result has the bits of a single process. In training it is the metric that syncs, see
:mod:`cleval_tm.metric`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from cleval_tm.counts import COUNTS
from cleval_tm.encode import checked_scale_bins
from cleval_tm.evaluation import Evaluation, count_images
from cleval_tm.rules import CLEvalRules

TIMEOUT = 600.0
"""Seconds for which a process waits for the others; ``CLEVAL_TM_TIMEOUT`` in the environment changes it."""


def is_distributed() -> bool:
    """Whether this process is one of several that ``torchrun`` started.

    ``RANK`` and ``WORLD_SIZE`` alone do not say so: schedulers set them for every command of a job.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def evaluate_sharded(
    preds: Sequence[Any],
    target: Sequence[Any],
    rules: str | CLEvalRules = "v2023",
    *,
    e2e: bool = True,
    scale_bins: Sequence[float] | None = None,
    num_threads: int = 1,
    progress: Any = None,
    timeout: float | None = None,
) -> Evaluation | None:
    """:func:`cleval_tm.evaluate` by all processes of a run, each of which has all images at hand.

    Args:
        preds: one dict an image, the same in every process.
        target: likewise.
        rules: the rule set, or its name.
        e2e: whether texts are compared.
        scale_bins: edges of the scale bins, or None.
        num_threads: threads of each process.
        progress: called with the number of images that this process has done since its last call.
        timeout: seconds for which a process waits for the others; by default :data:`TIMEOUT`.

    Returns:
        in the process of rank 0 the evaluation of all images, in their order; ``None`` in the others.

    Raises:
        ValueError, TypeError: in rank 0, if an image of any process is not as it should be; the message
            names the image.
        ConnectionError: if another process ended, or did not answer in time.

    Example:
        Without other processes it is ``evaluate``:

        >>> from cleval_tm.distributed import evaluate_sharded
        >>> image = {"boxes": [[0, 0, 40, 10]], "texts": ["word"]}
        >>> evaluate_sharded([image], [image]).scores()["e2e_hmean"]
        1.0
    """
    rules = CLEvalRules.of(rules)
    rank, world = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_distributed() else (0, 1)
    shard = _counted(preds, target, rank, world, rules, e2e, scale_bins, num_threads, progress)
    shards = [shard] if world == 1 else _gathered(shard, rank, world, _seconds(timeout))
    if shards is None:
        return None
    for number, one in enumerate(shards):
        if one.error is not None:
            raise one.error
        if one.images != len(target):
            raise ValueError(
                f"Expected all processes to see the same {len(target)} images "
                f"but rank {number} sees {one.images}"
            )
    return _assembled(shards, target, rules, e2e, checked_scale_bins(scale_bins))


@dataclass
class _Shard:
    """What a process has counted, or why it could not."""

    images: int
    counts: Any = None
    scale_counts: Any = None
    error: ValueError | TypeError | None = None


def _counted(
    preds: Sequence[Any], target: Sequence[Any], rank: int, world: int, rules: CLEvalRules, *options: Any
) -> _Shard:
    e2e, scale_bins, num_threads, progress = options
    if len(preds) != len(target):  # the same in every process, and no shard would show it
        raise ValueError(
            "Expected arguments `preds` and `target` to hold equally many images but got "
            f"{len(preds)} and {len(target)}"
        )
    try:
        counted = count_images(
            preds[rank::world],
            target[rank::world],
            rules,
            e2e=e2e,
            scale_bins=scale_bins,
            num_threads=num_threads,
            progress=progress,
        )
    except (ValueError, TypeError) as error:
        # the others wait for this process: rank 0 is told what is wrong, and says it
        told = f" (its images are {rank}, {rank + world}, {rank + 2 * world}, ...)" if world > 1 else ""
        return _Shard(len(target), error=type(error)(f"rank {rank}{told}: {error}" if told else str(error)))
    return _Shard(len(target), counted.counts, counted.scale_counts)


def _gathered(shard: _Shard, rank: int, world: int, timeout: float) -> list[_Shard] | None:
    import torch.distributed as dist

    shards: list[Any] | None = [None] * world if rank == 0 else None
    with _process_group(timeout):
        dist.gather_object(shard, shards, dst=0)
    return shards


@contextmanager
def _process_group(timeout: float) -> Iterator[None]:
    """A gloo group of all processes, for as long as the block runs; an error in it says what happened."""
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} lost the other processes: one of them "
            f"ended, or did not answer within {timeout:g} s (CLEVAL_TM_TIMEOUT). {str(error).splitlines()[0]}"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _assembled(
    shards: Sequence[_Shard],
    target: Sequence[Any],
    rules: CLEvalRules,
    e2e: bool,
    scale_bins: tuple[float, ...] | None,
) -> Evaluation:
    n, world = len(target), len(shards)
    counts = np.empty((n, len(COUNTS)), dtype=np.int64)
    scale_counts = None
    if scale_bins is not None:
        scale_counts = np.empty((n, len(scale_bins) - 1, len(COUNTS)), dtype=np.int64)
    for rank, shard in enumerate(shards):
        counts[rank::world] = shard.counts
        if scale_counts is not None:
            scale_counts[rank::world] = shard.scale_counts
    image_ids = [image.get("image_id") for image in target]
    return Evaluation(counts, scale_counts, image_ids, rules, e2e, scale_bins)


def _seconds(timeout: float | None) -> float:
    given = os.environ.get("CLEVAL_TM_TIMEOUT", TIMEOUT) if timeout is None else timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"Expected CLEVAL_TM_TIMEOUT to be seconds above 0 but got {given!r}")
    return seconds
