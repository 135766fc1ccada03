"""The published package ``cleval`` 0.1.1 on this library's image dicts: the oracle, and the peer to beat.

Only its public interface is called: ``CLEvalMetric`` (one image an update, then its states) and the function
``evaluation`` under it, which gives the figures of one image. Where the package is not installed,
:func:`missing` says why and everything else raises ``ImportError``.

Where the package itself breaks (found by running it):

- Without ground truth texts, or with texts on one side alone, it stops with TypeError; so detection-only runs
  hand it empty detection texts and its E2E switch off. Empty images and empty texts are fine.
- Its clipper (GPC, in Polygon3) kills the process with a segmentation fault on some pairs of rings that cross
  themselves, ``[[5,2],[0,2],[5,7],[0,7]]`` and ``[[3,3],[6,2],[0,5],[2,6]]`` for one: about one image in
  eight hundred where half the shapes are irregular. :func:`count_images_apart` survives that. Everything else
  about crossing, flat and repeated points works, and by the even-odd rule.
- Shapes beyond int32 stop with OverflowError, lists of numbers beyond int16 likewise.
- It reads a *detection* whose text is exactly ``###`` as a run of ``#`` of its pseudo length, as it does with
  ground truth, without ignoring it.
- Comparing the summed area precision of ignored words with the constraint follows numpy: float32 from numpy 2
  on, float64 before.
- Given the image's size, words whose scale is above 1 (larger than the image) are ignored in the image's own
  figures, too; without it they count.
- Its scale bins go by OpenCV's float32 ``minAreaRect``, which picks among equal rectangles as it likes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np

from cleval_tm.rules import CLEvalRules

COMPARED = (
    "chars_gt",
    "chars_det",
    "det_tp",
    "recall_granularity",
    "precision_granularity",
    "det_fp_chars",
    "splits",
    "merges",
    "overlaps",
    "e2e_tp",
    "e2e_chars_det",
    "e2e_fp_chars",
    "recognition_chars",
)
"""The counts of ours that the package knows too; the last one follows from its matches."""

_STATES = {
    "det_num_char_gt": "chars_gt",
    "det_num_char_det": "chars_det",
    "det_num_char_tp_recall": "det_tp",
    "det_gran_score_recall": "recall_granularity",
    "det_gran_score_precision": "precision_granularity",
    "det_num_char_fp": "det_fp_chars",
    "num_splitted": "splits",
    "num_merged": "merges",
    "num_char_overlapped": "overlaps",
    "e2e_num_char_tp_recall": "e2e_tp",
    "e2e_num_char_det": "e2e_chars_det",
    "e2e_num_char_fp": "e2e_fp_chars",
}


def missing() -> str | None:
    """Why the package cannot be asked, or None if it can."""
    try:
        import cleval  # noqa: F401
    except ImportError as error:
        return f"the published package cleval 0.1.1 cannot be imported (extra `oracle`): {error}"
    return None


def quads(image: dict[str, Any], dtype: type = np.float64) -> np.ndarray:
    """Shapes of an image as the package wants them, (N, 8)."""
    if image.get("boxes") is not None:
        boxes = np.asarray(image["boxes"], dtype=np.float64).reshape(-1, 4)
        return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(dtype)
    return np.asarray(image["polygons"], dtype=np.float64).reshape(-1, 8).astype(dtype)


def metric(rules: CLEvalRules, scale_bins: Sequence[float] | None = None) -> Any:
    """The package's ``CLEvalMetric`` with our options."""
    from cleval import CLEvalMetric

    bins = {} if scale_bins is None else {"scale_wise": True, "scale_bins": tuple(scale_bins)}
    return CLEvalMetric(
        case_sensitive=rules.case_sensitive,
        recall_gran_penalty=rules.recall_granularity_weight,
        precision_gran_penalty=rules.precision_granularity_weight,
        vertical_aspect_ratio_thresh=rules.vertical_aspect_ratio_thresh,
        ap_constraint=rules.ap_constraint,
        **bins,
    )


def update(official: Any, pred: dict[str, Any], target: dict[str, Any], *, e2e: bool = True) -> None:
    """One image into the package's metric. With scale bins its shapes go in as int32, which OpenCV takes."""
    scale_wise = bool(official.scalewise_metric)
    dtype = np.int32 if scale_wise else np.float64
    official.update(
        quads(pred, dtype),
        quads(target, dtype),
        pred["texts"] if e2e else None,
        target["texts"],
        target.get("ignore"),
        max(target["image_size"]) if scale_wise else None,
    )


def totals(official: Any) -> dict[str, int]:
    """What a metric of the package has summed up, by our names; weights must be 1."""
    return {ours: int(getattr(official, theirs)) for theirs, ours in _STATES.items()}


def count_image(
    pred: dict[str, Any], target: dict[str, Any], rules: CLEvalRules, *, e2e: bool = True
) -> dict[str, int]:
    """Counts of one image, by :data:`COMPARED`; weights must be 1."""
    from cleval.box_types import QUAD
    from cleval.eval_functions import evaluation
    from cleval.torchmetric import Options

    options = Options(
        case_sensitive=rules.case_sensitive,
        recall_gran_penalty=rules.recall_granularity_weight,
        precision_gran_penalty=rules.precision_granularity_weight,
        vertical_aspect_ratio_thresh=rules.vertical_aspect_ratio_thresh,
        ap_constraint=rules.ap_constraint,
    )
    options.E2E = e2e
    ignore = target.get("ignore")
    gts = [
        QUAD(quad, transcription=text, is_dc=None if ignore is None else bool(ignore[i]))
        for i, (quad, text) in enumerate(zip(quads(target), target["texts"], strict=True))
    ]
    texts = pred["texts"] if e2e else [""] * len(quads(pred))
    dets = [QUAD(quad, transcription=text) for quad, text in zip(quads(pred), texts, strict=True)]
    result = evaluation(options, gts, dets)
    det, end_to_end, stats = result.stats.det, result.stats.e2e, result.stats
    counts = {
        "chars_gt": det.num_char_gt,
        "chars_det": det.num_char_det,
        "det_tp": det.num_char_tp_recall,
        "recall_granularity": det.gran_score_recall,
        "precision_granularity": det.gran_score_precision,
        "det_fp_chars": det.num_char_fp,
        "splits": stats.num_splitted,
        "merges": stats.num_merged,
        "overlaps": stats.num_char_overlapped,
    }
    if e2e:
        matched = {d for match in result.matches for d in match.det_ids}
        counts |= {
            "e2e_tp": end_to_end.num_char_tp_recall,
            "e2e_chars_det": end_to_end.num_char_det,
            "e2e_fp_chars": end_to_end.num_char_fp,
            "recognition_chars": sum(len(dets[d].transcription) for d in matched),
        }
    return {name: int(counts.get(name, 0)) for name in COMPARED}


def count_images_apart(
    preds: Sequence[dict[str, Any]], target: Sequence[dict[str, Any]], rules: CLEvalRules
) -> list[dict[str, int] | None]:
    """:func:`count_image` of each image, in another process; None where the package crashed."""
    context = multiprocessing.get_context("spawn")
    results: list[dict[str, int] | None] = []
    while len(results) < len(preds):
        receiver, sender = context.Pipe(duplex=False)
        rest = slice(len(results), None)
        process = context.Process(target=_count_all, args=(sender, preds[rest], target[rest], rules))
        process.start()
        sender.close()
        try:
            while len(results) < len(preds):
                results.append(receiver.recv())
        except EOFError:
            results.append(None)
        process.join()
    return results


def _count_all(
    sender: Any, preds: Sequence[dict[str, Any]], target: Sequence[dict[str, Any]], rules: CLEvalRules
) -> None:
    for pred, truth in zip(preds, target, strict=True):
        sender.send(count_image(pred, truth, rules))
