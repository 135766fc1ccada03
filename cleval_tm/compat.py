"""Drop-ins for the metric classes in use: change the import, keep the code.

Both take one image an update, and are thin shells on :class:`cleval_tm.CLEvalMetric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cleval_tm import metric
from cleval_tm.counts import COLUMN, COUNTS, IntTable, corpus_scores
from cleval_tm.evaluation import ImageCounts, count_images
from cleval_tm.images import IGNORED_TEXT
from cleval_tm.rules import CLEvalRules
from cleval_tm.tensors import as_array

SCALE_BINS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.1, 0.5, 1.0)
"""Edges of the published scale bins."""


_COUNTED = {"num_splitted": "splits", "num_merged": "merges", "num_char_overlapped": "overlaps"}


class _OneImageMetric(metric.CLEvalMetric):
    """What both drop-ins share: one image an update, a range of scales, scale bins in a dict of their own."""

    _SCORES: ClassVar[dict[str, str]]

    def __init__(
        self,
        rules: CLEvalRules,
        dist_sync_on_step: bool,
        scale_bins: Sequence[float] | None,
        scale_range: Sequence[float],
    ) -> None:
        low, high = scale_range
        self.scale_range = (float(low), float(high))
        super().__init__(rules, scale_bins=scale_bins, per_image=False, dist_sync_on_step=dist_sync_on_step)

    def _options(self) -> tuple[Any, ...]:
        return (*super()._options(), self.scale_range)

    def update(
        self,
        det_quads: Any,
        gt_quads: Any,
        det_letters: Sequence[str] | None = None,
        gt_letters: Sequence[str | None] | None = None,
        gt_is_dcs: Sequence[bool | None] | None = None,
        img_longer_length: float | None = None,
    ) -> None:
        """Count one image.

        Args:
            det_quads: (N, 8) detected shapes, in pixels: an array, a tensor, or a list of flat lists.
            gt_quads: (M, 8) shapes of the ground truth, likewise.
            det_letters: N texts; ``None`` without recognition, which leaves the e2e figures at 0.
            gt_letters: M texts (``None`` for an ignored word will do); ``None`` without recognition.
            gt_is_dcs: M flags, true for words to ignore; without, words whose text is ``###`` are ignored.
            img_longer_length: longer side of the image, in pixels; needed with ``scale_wise``.

        Raises:
            ValueError, TypeError: if the image is not as expected; nothing is counted then.
        """
        if self.scale_bins is not None and img_longer_length is None:
            raise ValueError(
                "Expected argument `img_longer_length` to be the longer side of the image "
                "with `scale_wise=True` but got None"
            )
        pred = _image(det_quads, det_letters)
        target = _image(gt_quads, gt_letters)
        if gt_is_dcs is not None:
            target |= _ignoring(gt_is_dcs, gt_letters)
        if img_longer_length is not None:
            target["image_size"] = (img_longer_length, img_longer_length)
        counted = self._counted([pred], [target])
        self._append(self._rows(counted.counts, counted.image_ids, counted.scale_counts))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scores of one result or of a series of them, as torchmetrics metrics do."""
        shown = self.compute() if val is None else val
        series = [
            {name: one[name] for name in self._SCORES}
            for one in ([shown] if isinstance(shown, dict) else shown)
        ]
        return self._plot(series[0] if isinstance(shown, dict) else series, ax)

    def _counted(self, preds: list[dict[str, Any]], target: list[dict[str, Any]]) -> ImageCounts:
        e2e = "texts" in preds[0] and "texts" in target[0]
        counted = count_images(preds, target, self.rules, e2e=e2e, scale_bins=self.scale_bins)
        if "image_size" in target[0] and self._some_out_of_range(target[0]):
            ranged = count_images(preds, target, self.rules, e2e=e2e, scale_bins=self.scale_range)
            assert ranged.scale_counts is not None
            counted = replace(counted, counts=ranged.scale_counts[:, 0])
        return counted

    def _some_out_of_range(self, target: dict[str, Any]) -> bool:
        """Whether a word may be out of ``scale_range``; one that is no wider than the image is in (0, 1)."""
        if self.scale_range != (0.0, 1.0):
            return True
        extents = [np.ptp(as_array(shape).reshape(-1, 2), axis=0) for shape in target["polygons"]]
        return any(np.hypot(*extent) > target["image_size"][0] for extent in extents)

    def compute(self) -> dict[str, Any]:
        """Scores as 0-d float32 tensors, counts as 0-d int64 tensors.

        Returns:
            a dict of them, and under ``"scale_wise"`` a dict of the same kind for each bin, by its (low, high).
        """
        table: IntTable = self._joined().cpu().numpy()
        blocks = table.sum(axis=0)[1:].reshape(-1, 1, len(COUNTS))
        whole, *bins = [self._result(sums) for sums in blocks]
        scale_wise = {
            edges: {**result, "scale_wise": {}} for edges, result in zip(self._bins, bins, strict=True)
        }
        return {**whole, "scale_wise": scale_wise}

    def _result(self, sums: IntTable) -> dict[str, Tensor]:
        scores = corpus_scores(sums, self.rules, e2e=True)
        floats = [scores[name] for name in self._SCORES.values()]
        integers = [int(sums[0, COLUMN[name]]) for name in _COUNTED.values()]
        tensors = (
            *torch.tensor(floats, dtype=torch.float32, device=self.device).unbind(),
            *torch.tensor(integers, dtype=torch.int64, device=self.device).unbind(),
        )
        return dict(zip((*self._SCORES, *_COUNTED), tensors, strict=True))


class CLEvalMetric(_OneImageMetric):
    """Drop-in for the torchmetrics class of the package ``cleval``: its constructor, ``update`` and result.

    Args:
        dist_sync_on_step: sync in ``forward`` too.
        case_sensitive: ``False`` upper-cases texts first.
        recall_gran_penalty: weight of the penalty for splits.
        precision_gran_penalty: weight of the penalty for merges.
        vertical_aspect_ratio_thresh: a quad with width / height below it holds vertical text.
        ap_constraint: area precision from which a detection counts.
        scale_wise: score each scale bin too; each ``update`` then needs ``img_longer_length``.
        scale_bins: edges of the bins.
        scale_range: words out of it are ignored, where ``update`` gets ``img_longer_length``.

    Example:
        >>> from cleval_tm.compat import CLEvalMetric
        >>> metric = CLEvalMetric()
        >>> quads = [[10, 10, 90, 10, 90, 30, 10, 30]]
        >>> metric.update(quads, quads, ["heart"], ["hearth"], [False])
        >>> metric.compute()["e2e_r"]
        tensor(0.8333)

    ``compute`` gives ``det_r det_p det_h e2e_r e2e_p e2e_h num_splitted num_merged num_char_overlapped
    scale_wise``.

    Source:
        ``cleval`` 0.1.1, ``CLEvalMetric``.
    """

    _SCORES: ClassVar[dict[str, str]] = {
        f"{kind}_{short}": f"{kind}_{long}"
        for kind in ("det", "e2e")
        for short, long in (("r", "recall"), ("p", "precision"), ("h", "hmean"))
    }

    def __init__(
        self,
        dist_sync_on_step: bool = False,
        case_sensitive: bool = True,
        recall_gran_penalty: float = 1.0,
        precision_gran_penalty: float = 1.0,
        vertical_aspect_ratio_thresh: float = 0.5,
        ap_constraint: float = 0.3,
        scale_wise: bool = False,
        scale_bins: Sequence[float] = SCALE_BINS,
        scale_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        rules = CLEvalRules.v2023(
            case_sensitive=case_sensitive,
            recall_granularity_weight=recall_gran_penalty,
            precision_granularity_weight=precision_gran_penalty,
            vertical_aspect_ratio_thresh=vertical_aspect_ratio_thresh,
            ap_constraint=ap_constraint,
        )
        super().__init__(rules, dist_sync_on_step, scale_bins if scale_wise else None, scale_range)


class UpstageCLEvalMetric(_OneImageMetric):
    """Drop-in for the fork of the receipt competition's baseline: polygons alone, rule set ``upstage``.

    Args:
        dist_sync_on_step: sync in ``forward`` too.
        case_sensitive: ``False`` upper-cases texts first.
        recall_gran_penalty: weight of the penalty for splits.
        precision_gran_penalty: weight of the penalty for merges.
        vertical_aspect_ratio_thresh: taken, and without effect under this rule set.
        ap_constraint: area precision from which a detection counts.
        scale_wise: score each scale bin too; each ``update`` then needs ``img_longer_length``.
        scale_bins: edges of the bins.
        scale_range: words out of it are ignored, where ``update`` gets ``img_longer_length``.
        max_polygons: only the first so many detections of an image count; ``None`` for all.

    Example:
        >>> from cleval_tm.compat import UpstageCLEvalMetric
        >>> metric = UpstageCLEvalMetric()
        >>> word = [10, 10, 90, 10, 90, 30, 10, 30]
        >>> _ = metric([word], [word, [10, 50, 90, 50, 90, 70, 10, 70]])
        >>> metric.compute()["recall"].item()
        0.5

    ``compute`` gives ``precision recall f1 num_splitted num_merged num_char_overlapped scale_wise``.

    Source:
        The rule set ``upstage``, see ``docs/rules.md``.
    """

    _SCORES: ClassVar[dict[str, str]] = {
        "precision": "det_precision",
        "recall": "det_recall",
        "f1": "det_hmean",
    }

    def __init__(
        self,
        dist_sync_on_step: bool = False,
        case_sensitive: bool = True,
        recall_gran_penalty: float = 1.0,
        precision_gran_penalty: float = 1.0,
        vertical_aspect_ratio_thresh: float = 0.5,
        ap_constraint: float = 0.3,
        scale_wise: bool = False,
        scale_bins: Sequence[float] = SCALE_BINS,
        scale_range: Sequence[float] = (0.0, 1.0),
        max_polygons: int | None = 500,
    ) -> None:
        rules = CLEvalRules.upstage(
            case_sensitive=case_sensitive,
            recall_granularity_weight=recall_gran_penalty,
            precision_granularity_weight=precision_gran_penalty,
            vertical_aspect_ratio_thresh=vertical_aspect_ratio_thresh,
            ap_constraint=ap_constraint,
            max_detections=max_polygons,
        )
        super().__init__(rules, dist_sync_on_step, scale_bins if scale_wise else None, scale_range)


def _image(shapes: Any, letters: Sequence[str | None] | None) -> dict[str, Any]:
    return {"polygons": shapes} if letters is None else {"polygons": shapes, "texts": letters}


def _ignoring(flags: Sequence[bool | None], letters: Sequence[str | None] | None) -> dict[str, Any]:
    """What flags say of an image: where one is ``None`` the text decides; an ignored word needs no text."""
    ignore: list[Any] = flags.tolist() if hasattr(flags, "tolist") else list(flags)
    if letters is None or len(letters) != len(ignore) or (None not in ignore and None not in letters):
        return {"ignore": [bool(flag) for flag in ignore] if letters is None else ignore}
    pairs = list(zip(letters, ignore, strict=True))
    ignore = [text == IGNORED_TEXT if flag is None else bool(flag) for text, flag in pairs]
    texts = [
        IGNORED_TEXT if text is None and skip else text for text, skip in zip(letters, ignore, strict=True)
    ]
    return {"ignore": ignore, "texts": texts}
