"""Both sides of a batch -> the flat arrays of the kernels, validated before anything is counted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cleval_tm.counts import scale_bins_of
from cleval_tm.images import Columns, ImageId, Ints
from cleval_tm.kernels.characters import place_characters
from cleval_tm.kernels.matching import Detections, Options, Words
from cleval_tm.kernels.measure import shorter_sides
from cleval_tm.rules import CLEvalRules
from cleval_tm.shapes import remainders_of_ignored
from cleval_tm.tensors import Image
from cleval_tm.text import Texts

_NONE: Ints = np.empty((0, 0), np.int64)


class GroundTruth:
    """Ground truth encoded once, for as many evaluations as are wanted.

    Args:
        target: one dict an image, as :func:`cleval_tm.evaluate` takes them.
        rules: the rule set, or its name.
        e2e: whether texts will be compared; then every image must bring them.
        scale_bins: edges of the scale bins, or None; with them every image must bring its ``"image_size"``.

    Raises:
        TypeError, ValueError: if an image is not as it should be; the message names the image and the shape.

    Example:
        >>> gt = GroundTruth([{"boxes": [[0, 0, 40, 10]], "texts": ["word"], "image_id": "a.jpg"}], "v2023")
        >>> len(gt), gt.image_ids
        (1, ['a.jpg'])
    """

    def __init__(
        self,
        target: Sequence[Image],
        rules: str | CLEvalRules = "v2023",
        *,
        e2e: bool = True,
        scale_bins: Sequence[float] | None = None,
    ) -> None:
        bins = checked_scale_bins(scale_bins)
        self._take(_Batch(Columns(CLEvalRules.of(rules), target=target), e2e), bins)

    def _take(self, batch: _Batch, scale_bins: tuple[float, ...] | None) -> None:
        columns = batch.columns
        self.rules, self.e2e, self.scale_bins = columns.rules, batch.e2e, scale_bins
        self.image_ids: list[ImageId] = columns.image_ids()
        self.images: Ints = np.arange(len(self.image_ids))
        self.source = columns.source
        self.words = batch.words(scale_bins)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Sequence[int] | Ints) -> GroundTruth:
        """The same ground truth of the images at ``indices``; nothing is encoded again."""
        chosen = object.__new__(GroundTruth)
        chosen.__dict__.update(self.__dict__)
        chosen.images = self.images[np.asarray(indices, np.int64)]
        chosen.image_ids = [self.image_ids[i] for i in indices]
        return chosen

    def must_fit(self, rules: CLEvalRules, e2e: bool, scale_bins: tuple[float, ...] | None) -> None:
        """Raise ValueError unless the ground truth was encoded with these options."""
        for name, mine, asked in (
            ("rules", self.rules, rules),
            ("e2e", self.e2e, e2e),
            ("scale_bins", self.scale_bins, scale_bins),
        ):
            if mine != asked:
                raise ValueError(
                    f"Expected ground truth that was encoded with {name}={asked!r} but got one encoded with {mine!r}"
                )


@dataclass(frozen=True)
class EncodedDetections:
    """Detections of a batch, ready for the kernels.

    Attributes:
        detections: the kernels' arrays.
        source: (S,) int64, where each shape stood in its image, or None where all of them are used.
    """

    detections: Detections
    source: Ints | None


class _Batch:
    """Images of one side or of both, measured and read at once: the arrays of both sides are the same ones."""

    def __init__(self, columns: Columns, e2e: bool) -> None:
        self.columns = columns
        self.e2e = e2e
        self.shapes = columns.shapes()
        self.texts, self.has_text = columns.texts()
        if e2e:
            columns.must_have_texts()
        else:
            for i in range(columns.first_target):
                self.texts[i] = [""] * len(self.texts[i])
        self.letters = columns.letters(self.texts)
        self.labels = columns.labels()

    def detections(self) -> Detections:
        """What the kernels see of the detections."""
        columns, letters = self.columns, self.letters
        if columns.rules.counts_hashes_as_pseudo and letters.some_hashes:
            hashes = np.flatnonzero(letters.is_hashes[: columns.first_word])
            if len(hashes):
                letters = self._with_pseudo_texts(hashes)
        images = columns.image_start[: columns.first_target + 1]
        return Detections(self.shapes.arrays(images), letters.letters, letters.letter_start, self.labels)

    def _with_pseudo_texts(self, hashes: Ints) -> Texts:
        """Letters of texts of which some (n,) are runs of # of their shape's pseudo length instead."""
        rules = self.columns.rules
        lengths = self.shapes.pseudo_lengths(hashes, rules.aspect_by_height, rules.pseudo_length_cap)
        texts = [list(mine) for mine in self.texts]
        for at, length in zip(hashes.tolist(), lengths.tolist(), strict=True):
            i, shape = self.columns.place_of(at)
            texts[i][shape] = "#" * length
        return self.columns.letters(texts)

    def words(self, scale_bins: tuple[float, ...] | None) -> Words:
        """What the kernels see of the ground truth."""
        columns, letters = self.columns, self.letters
        rules, first = columns.rules, columns.first_word
        images = columns.image_start[columns.first_target :]
        ignored = columns.ignored(self.texts, letters)
        is_pseudo = ignored
        has_text = self.has_text[columns.first_target :]
        if not all(has_text):
            is_pseudo = ignored.copy()
            is_pseudo[first:] |= np.repeat(np.logical_not(has_text), np.diff(images))
        threshold = rules.vertical_aspect_ratio_thresh
        if rules.aspect_by_height:
            threshold = 1.0 / threshold if threshold > 0 else float("inf")
        char_start, centres = place_characters(
            columns.points,
            columns.ring_start,
            columns.style,
            self.shapes.rectangle_aspect,
            letters.letter_start,
            is_pseudo,
            first,
            rules.aspect_by_height,
            float(threshold),
            rules.pseudo_length_cap,
        )
        views = ignored[np.newaxis]
        if scale_bins is not None:
            sides = np.repeat(columns.longer_image_sides(), np.diff(images))
            scales = shorter_sides(columns.points, columns.ring_start[first:]) / sides
            views = np.tile(ignored, (len(scale_bins), 1))
            for view, (low, high) in zip(views[1:], scale_bins_of(scale_bins), strict=True):
                view[first:] |= (scales < low) | (scales > high)
        some_ignored = np.count_nonzero(views) > 0
        remainder = remainders_of_ignored(self.shapes, views) if some_ignored else _NONE
        return Words(
            self.shapes.arrays(images),
            char_start,
            centres,
            letters.letters,
            letters.letter_start,
            self.labels,
            views,
            ignored if len(views) == 1 else views.any(axis=0),
            remainder,
            _walking_order(columns.image_start, views) if some_ignored and rules.set_order else _NONE,
        )


def encode(
    preds: Sequence[Image],
    target: Sequence[Image] | GroundTruth,
    rules: CLEvalRules,
    *,
    e2e: bool,
    scale_bins: tuple[float, ...] | None,
) -> tuple[EncodedDetections, GroundTruth]:
    """Both sides of a batch, validated and flat.

    Raises:
        TypeError, ValueError: if anything is not as it should be, before any work on it.
    """
    if isinstance(preds, Mapping) or isinstance(target, Mapping):
        raise TypeError(
            "Expected arguments `preds` and `target` to be sequences with one dict an image but got a single dict; "
            "for one image pass [preds], [target]"
        )
    if len(preds) != len(target):
        raise ValueError(
            "Expected arguments `preds` and `target` to hold equally many images but got "
            f"{len(preds)} and {len(target)}"
        )
    if isinstance(target, GroundTruth):
        target.must_fit(rules, e2e, scale_bins)
        gt = target
        batch = _Batch(Columns(rules, preds=preds), e2e)
    else:
        gt = object.__new__(GroundTruth)
        batch = _Batch(Columns(rules, preds=preds, target=target), e2e)
        gt._take(batch, scale_bins)
    return EncodedDetections(batch.detections(), batch.columns.source), gt


@lru_cache
def kernel_options(rules: CLEvalRules, *, e2e: bool) -> Options:
    """What of ``rules`` the kernels ask for."""
    return Options(
        ap_constraint=float(rules.ap_constraint),
        ap_float32_constraint=float(np.float32(rules.ap_constraint)),
        in_float32=rules.ap_float32,
        ignores_strictly=rules.ignore_strictly,
        lcs_prefers_left=rules.lcs_prefers_left,
        reads_text=e2e,
        by_height=rules.aspect_by_height,
        pseudo_length_cap=rules.pseudo_length_cap,
    )


def checked_scale_bins(scale_bins: Sequence[float] | None) -> tuple[float, ...] | None:
    """Edges of scale bins, at least two and rising.

    Raises:
        ValueError: if they are not.
    """
    if scale_bins is None:
        return None
    edges = tuple(scale_bins)
    if len(edges) < 2 or not all(low < high for low, high in scale_bins_of(edges)):
        raise ValueError(
            f"Expected argument `scale_bins` to be rising edges, such as (0, 0.1, 1), but got {scale_bins!r}"
        )
    return edges


def _walking_order(image_start: Ints, views: npt.NDArray[np.bool_]) -> Ints:
    """(V, S) the order in which each image's words are walked, counted from its first; (0, 0) where all ascend.

    The published package walks Python sets, whose order comes from how they grew: so do we.
    """
    order = _NONE
    starts = image_start.tolist()
    for view, ignored in enumerate(views):
        places = np.flatnonzero(ignored).tolist()
        end = 0
        while end < len(places):  # image after image with ignored words
            start = end
            image = bisect_right(starts, places[start]) - 1
            first, last = starts[image : image + 2]
            end = bisect_left(places, last, start)
            ascending = [place - first for place in places[start:end]]
            mine = set(ascending)
            ascends = list(mine) == ascending
            # A set of numbers in a row, without less than a quarter of them, ascends.
            if ascends and 4 * len(mine) < last - first:
                continue
            words = list(set(range(last - first)) - mine)
            if ascends and words == sorted(words):
                continue
            if not len(order):
                all_ascend = np.arange(starts[-1]) - np.repeat(image_start[:-1], np.diff(image_start))
                order = np.tile(all_ascend, (len(views), 1))
            order[view, first:last] = [*words, *mine]
    return order
