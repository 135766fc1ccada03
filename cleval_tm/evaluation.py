"""Evaluate images that are at hand: ``evaluate()`` and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.counts import COUNTS, IntTable, all_scores, image_scores, total_counts
from cleval_tm.encode import EncodedDetections, GroundTruth, checked_scale_bins, encode, kernel_options
from cleval_tm.images import ImageId, Ints
from cleval_tm.kernels.candidates import find_candidates
from cleval_tm.kernels.image import NO_STORY, Story
from cleval_tm.kernels.image import count_images as count_into
from cleval_tm.kernels.matching import MERGE, ONE_TO_ONE, SPLIT, Options
from cleval_tm.kernels.measure import IRREGULAR
from cleval_tm.rules import CLEvalRules
from cleval_tm.tensors import Image

_CHUNK = 16
_RELATIONS = ((ONE_TO_ONE, "one-to-one"), (SPLIT, "split"), (MERGE, "merge"))


@dataclass(frozen=True)
class ImageCounts:
    """Counts of some images.

    Attributes:
        counts: (n, len(COUNTS)) int64.
        scale_counts: (n, bins, len(COUNTS)) int64, or None without scale bins.
        image_ids: each image's id, or None.
    """

    counts: IntTable
    scale_counts: IntTable | None
    image_ids: list[ImageId]
    encoded: tuple[EncodedDetections, GroundTruth] = field(repr=False)


def count_images(
    preds: Sequence[Image],
    target: Sequence[Image] | GroundTruth,
    rules: CLEvalRules,
    *,
    e2e: bool = True,
    scale_bins: Sequence[float] | None = None,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> ImageCounts:
    """Count each image by itself: the functional core of :func:`evaluate` and of the metric.

    Args:
        preds: one dict an image, see :func:`evaluate`.
        target: likewise, or ground truth encoded beforehand with the same options.
        rules: the rule set.
        e2e: whether texts are compared.
        scale_bins: edges of the scale bins, or None.
        num_threads: threads over images; the counts are the same for any number.
        progress: called with the number of images done since its last call.

    Raises:
        TypeError, ValueError: if an image is not as it should be; nothing has been counted then.
    """
    bins = checked_scale_bins(scale_bins)
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(f"Expected argument `num_threads` to be an int from 1 on but got {num_threads!r}")
    encoded, gt = encode(preds, target, rules, e2e=e2e, scale_bins=bins)
    n = len(gt)
    table = np.zeros((n, len(gt.words.ignored), len(COUNTS)), np.int64)
    options = kernel_options(rules, e2e=e2e)

    def count(first: int, last: int) -> int:
        count_range(encoded, gt, first, last, options, table[first:last])
        return last - first

    if num_threads == 1 and progress is None:
        count(0, n)
    else:
        for done in _in_chunks(count, n, num_threads):
            if progress is not None:
                progress(done)
    scale_counts = None if bins is None else table[:, 1:]
    return ImageCounts(table[:, 0], scale_counts, gt.image_ids, (encoded, gt))


def count_range(
    encoded: EncodedDetections,
    gt: GroundTruth,
    first: int,
    last: int,
    options: Options,
    table: IntTable,
    story: Story = NO_STORY,
) -> None:
    """Count encoded images ``first`` to ``last`` into ``table``, see :func:`cleval_tm.kernels.image.count_images`."""
    start, found = candidates_of(encoded, gt, first, last, whole=story is not NO_STORY)
    count_into(gt.words, gt.images, encoded.detections, start, found, first, last, options, table, story)


def candidates_of(
    encoded: EncodedDetections, gt: GroundTruth, first: int, last: int, *, whole: bool
) -> tuple[Ints, Ints]:
    """See :func:`cleval_tm.kernels.candidates.find_candidates`."""
    words, shapes = gt.words, encoded.detections.shapes
    return find_candidates(
        gt.images,
        words.shapes.image_start,
        words.shapes.bounds,
        words.char_start,
        words.centres,
        words.ever_ignored,
        shapes.image_start,
        shapes.bounds,
        first,
        last,
        whole,
    )


def evaluate(
    preds: Sequence[Image],
    target: Sequence[Image] | GroundTruth,
    rules: str | CLEvalRules = "v2023",
    *,
    e2e: bool = True,
    scale_bins: Sequence[float] | None = None,
    orientation: bool = False,
    num_threads: int = 1,
    progress: bool = False,
) -> Evaluation:
    """Score predictions against ground truth.

    Args:
        preds: one dict an image: ``"polygons"``, (N, 8) or (N, P, 2) array or tensor or a list of (P, 2), in
            pixels, or ``"boxes"`` (N, 4) left, top, right, bottom; ``"texts"`` list of N str; ``"scores"`` (N,)
            and ``"orientation_labels"`` (N,) optional.
        target: one dict an image, likewise; and ``"ignore"`` (N,) bool, optional (without it, the text ``###``
            ignores a word); ``"image_size"`` (height, width), needed with ``scale_bins``; ``"image_id"`` str
            or int, optional. Or :class:`~cleval_tm.encode.GroundTruth`.
        rules: a :class:`CLEvalRules`, or the name of a published rule set: ``"v2023"``, ``"v2020"``,
            ``"upstage"``.
        e2e: compare texts as well; both sides must bring them.
        scale_bins: edges of the scale bins: words are also scored by shorter side / longer image side.
        orientation: add the score ``orientation_accuracy``: of the matched pairs that both have an orientation
            label, the share whose labels are equal.
        num_threads: threads over images.
        progress: show a progress bar.

    Returns:
        the counts of each image, and every score that follows from them.

    Raises:
        TypeError, ValueError: if an image is not as it should be; the message names the image and the shape.

    Example:
        >>> from cleval_tm import evaluate
        >>> target = [{"boxes": [[0, 0, 40, 10], [0, 20, 40, 30]], "texts": ["spam", "eggs"]}]
        >>> preds = [{"boxes": [[0, 0, 20, 10], [20, 0, 40, 10]], "texts": ["sp", "am"]}]
        >>> result = evaluate(preds, target)
        >>> result.totals()["splits"], result.scores()["det_recall"], result.scores()["e2e_precision"]
        (1, 0.375, 1.0)

    Source:
        CLEval (Baek et al., 2020, arXiv:2006.06244), sections 3 and 4.
    """
    rules = CLEvalRules.of(rules)
    if progress:
        from cleval_tm.progress import images_progress

        with images_progress(len(target)) as advance:
            counted = count_images(
                preds,
                target,
                rules,
                e2e=e2e,
                scale_bins=scale_bins,
                num_threads=num_threads,
                progress=advance,
            )
    else:
        counted = count_images(preds, target, rules, e2e=e2e, scale_bins=scale_bins, num_threads=num_threads)
    return Evaluation(
        counted.counts,
        counted.scale_counts,
        counted.image_ids,
        rules,
        e2e,
        checked_scale_bins(scale_bins),
        orientation,
        ((len(counted.counts), *counted.encoded),),
    )


@dataclass(frozen=True)
class Evaluation:
    """The counts of evaluated images, and every score that follows from them.

    Attributes:
        counts: (n, len(COUNTS)) int64, a row an image.
        scale_counts: (n, bins, len(COUNTS)) int64, or None without scale bins.
        image_ids: each image's id, or None.
        rules: the rule set that was used.
        e2e: whether texts were compared.
        scale_bins: edges of the scale bins, or None.
        orientation: whether the scores tell of orientation.

    Evaluations with the same options add up: ``a + b`` holds the images of both.
    """

    counts: IntTable
    scale_counts: IntTable | None
    image_ids: list[ImageId]
    rules: CLEvalRules
    e2e: bool
    scale_bins: tuple[float, ...] | None
    orientation: bool = False
    encoded: tuple[tuple[int, EncodedDetections, GroundTruth], ...] = field(
        default=(), repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: Evaluation) -> Evaluation:
        for name in ("rules", "e2e", "scale_bins", "orientation"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"Expected evaluations with the same {name} but got {getattr(self, name)!r} and "
                    f"{getattr(other, name)!r}"
                )
        scale_counts = None
        if self.scale_counts is not None and other.scale_counts is not None:
            scale_counts = np.concatenate((self.scale_counts, other.scale_counts))
        return Evaluation(
            np.concatenate((self.counts, other.counts)),
            scale_counts,
            self.image_ids + other.image_ids,
            self.rules,
            self.e2e,
            self.scale_bins,
            self.orientation,
            self.encoded + other.encoded,
        )

    def scores(self) -> dict[str, float]:
        """Every score as a Python float: of the corpus, ``mean_`` of the images, ``scale_{lo}_{hi}_`` of each bin."""
        return all_scores(
            self.counts,
            self.scale_counts,
            self.rules,
            e2e=self.e2e,
            scale_bins=self.scale_bins,
            orientation=self.orientation,
        )

    def totals(self) -> dict[str, int]:
        """Counts over all images as Python ints, by the names in ``COUNTS``, and ``images``."""
        return {**total_counts(self.counts), "images": len(self.counts)}

    def image_scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Each image's own scores, (n,) float64 each."""
        return image_scores(self.counts, self.rules, e2e=self.e2e)

    def match(self, i: int) -> ImageMatch:
        """What happened in image ``i``: pairs, characters, ignored shapes.

        Raises:
            IndexError: if there is no such image.
            ValueError: if the evaluation was made of counts alone, without shapes.
        """
        n = len(self.counts)
        if not -n <= i < n:
            raise IndexError(f"Expected an image from 0 to {n - 1} but got {i}")
        at = i % n
        for size, encoded, gt in self.encoded:
            if at < size:
                return _match_of(encoded, gt, at, self.rules, self.e2e)
            at -= size
        raise ValueError("This evaluation holds counts alone: it does not know what happened in an image")


@dataclass(frozen=True)
class MatchedPair:
    """A word and a detection that share area or a character.

    Attributes:
        gt, det: where they stand in their image.
        area_precision: area of the overlap / area of the detection.
        relations: of ``"one-to-one"``, ``"split"`` and ``"merge"`` those that hold; none outside the match.
        characters: numbers of the word's characters that the detection contains.
    """

    gt: int
    det: int
    area_precision: float
    relations: tuple[str, ...]
    characters: tuple[int, ...]


@dataclass(frozen=True)
class ImageMatch:
    """What happened in one image.

    Attributes:
        pairs: pairs that share area or a character, matched or not.
        character_hits: for each word, how many matched detections hold each of its characters: 0 is a missed
            character, 2 and more an overlapped one.
        character_centres: for each word, (L, 2) float64 its characters' centres in pixels.
        ignored_gt, ignored_det, irregular_gt, irregular_det: where such shapes stand in their image.
    """

    pairs: tuple[MatchedPair, ...]
    character_hits: dict[int, npt.NDArray[np.int64]]
    character_centres: dict[int, npt.NDArray[np.float64]]
    ignored_gt: tuple[int, ...]
    ignored_det: tuple[int, ...]
    irregular_gt: tuple[int, ...]
    irregular_det: tuple[int, ...]

    @property
    def matched(self) -> tuple[MatchedPair, ...]:
        """The pairs in the match relation."""
        return tuple(pair for pair in self.pairs if pair.relations)

    @property
    def missed(self) -> dict[int, tuple[int, ...]]:
        """For each word that counts and is not wholly found, the numbers of its missed characters."""
        return self._characters(lambda hits: hits == 0)

    @property
    def overlapped(self) -> dict[int, tuple[int, ...]]:
        """For each word with such, the numbers of its characters that several matched detections hold."""
        return self._characters(lambda hits: hits > 1)

    def _characters(self, which: Callable[[Any], Any]) -> dict[int, tuple[int, ...]]:
        found = {
            gt: tuple(np.flatnonzero(which(hits)).tolist())
            for gt, hits in self.character_hits.items()
            if gt not in self.ignored_gt
        }
        return {gt: numbers for gt, numbers in found.items() if numbers}


def _match_of(
    encoded: EncodedDetections, gt: GroundTruth, i: int, rules: CLEvalRules, e2e: bool
) -> ImageMatch:
    words, detections = gt.words, encoded.detections
    first_gt, last_gt = words.shapes.image_start[gt.images[i] : gt.images[i] + 2]
    first_det, last_det = detections.shapes.image_start[i : i + 2]
    chars = words.char_start[first_gt : last_gt + 1]
    options = kernel_options(rules, e2e=e2e)
    needs = np.array([4 * (last_gt - first_gt), 4 * (chars[-1] - chars[0])])
    while True:
        story = Story(
            np.zeros(2, np.int64),
            np.empty((needs[0], 4), np.int64),
            np.empty(needs[0]),
            np.empty(needs[1], np.uint8),
            np.empty(last_det - first_det, np.uint8),
            np.empty(chars[-1] - chars[0], np.int64),
        )
        table = np.zeros((1, len(words.ignored), len(COUNTS)), np.int64)
        count_range(encoded, gt, i, i + 1, options, table, story)
        if (story.needs <= needs).all():
            break
        needs = story.needs
    name_gt = _names(gt.source, first_gt, last_gt)
    name_det = _names(encoded.source, first_det, last_det)
    n, ends = story.needs.tolist()
    starts = [*story.pairs[:n, 3].tolist(), ends]
    return ImageMatch(
        pairs=tuple(
            MatchedPair(
                name_gt[g],
                name_det[d],
                float(story.ap[p]),
                tuple(name for bit, name in _RELATIONS if relation & bit),
                tuple(np.flatnonzero(story.hits[starts[p] : starts[p + 1]]).tolist()),
            )
            for p, (g, d, relation, _) in enumerate(story.pairs[:n].tolist())
        ),
        character_hits={
            name: story.claims[chars[g] - chars[0] : chars[g + 1] - chars[0]]
            for g, name in enumerate(name_gt)
        },
        character_centres={
            name: words.centres[:, chars[g] : chars[g + 1]].T for g, name in enumerate(name_gt)
        },
        ignored_gt=_where(name_gt, words.ignored[0, first_gt:last_gt]),
        ignored_det=_where(name_det, story.det_ignored),
        irregular_gt=_where(name_gt, words.shapes.kind[first_gt:last_gt] >= IRREGULAR),
        irregular_det=_where(name_det, detections.shapes.kind[first_det:last_det] >= IRREGULAR),
    )


def _names(source: npt.NDArray[np.int64] | None, first: int, last: int) -> list[int]:
    return list(range(last - first)) if source is None else source[first:last].tolist()


def _where(names: list[int], mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(name for name, holds in zip(names, mask.tolist(), strict=True) if holds)


def _in_chunks(count: Callable[[int, int], int], n: int, num_threads: int) -> Iterable[int]:
    """Count images chunk by chunk, yielding how many each chunk held."""
    starts = range(0, n, _CHUNK)
    ends = [min(start + _CHUNK, n) for start in starts]
    if num_threads == 1:
        yield from map(count, starts, ends)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            yield from pool.map(count, starts, ends)
