"""An evaluator over a dataset's own annotations, scoring batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cleval_tm.counts import COUNTS, IntTable, corpus_scores, image_scores, mean_scores
from cleval_tm.encode import GroundTruth
from cleval_tm.evaluation import count_images
from cleval_tm.lightning.orientation import TURNS, to_displayed
from cleval_tm.metric import CLEvalMetric
from cleval_tm.rules import CLEvalRules
from cleval_tm.table import image_key

Scores = dict[str, npt.NDArray[np.float64]]

_SHORT = {"recall": "det_recall", "precision": "det_precision", "hmean": "det_hmean"}
_FORK_NAMES = {
    "recall_gran_penalty": "recall_granularity_weight",
    "precision_gran_penalty": "precision_granularity_weight",
    "max_polygons": "max_detections",
}
# what the fork's constructor takes besides, without effect on these figures
_FORK_IDLE = ("_target_", "scale_wise", "scale_bins", "scale_range")


class CLEvalEvaluator(nn.Module):
    """Detection scores of a dataset: ``update`` counts a batch at once, ``compute`` only adds up.

    A LightningModule that holds it moves its state to the device and syncs it over ranks. File names are
    the image ids, so an image that a distributed sampler repeats counts once. The ground truth of an image
    is encoded when it is first seen and kept for later epochs.

    Args:
        dataset: ``dataset.anns`` maps file names to lists of polygons ((P, 2) arrays in the frame in which
            the image is stored) or ``None``. A ``Subset`` (``.dataset``, ``.indices``) has its own images.
        metric_cfg: options by name: ``rules`` (a rule set's name or :class:`~cleval_tm.CLEvalRules`; by
            default ``"upstage"``), any field of the rules, ``dist_sync_on_step``, or what the constructor
            of the competition's metric takes (``max_polygons``, ``recall_gran_penalty``, ``_target_``, ...).
        mode: prefix of the keys that :meth:`compute` returns.
        enable_validation: taken for compatibility; predictions are always checked.
        missing: what to make of the dataset's images that were not predicted: ``"skip"`` leaves them out,
            ``"zero"`` scores them 0 (and counts their words as missed in the corpus figures).

    Raises:
        ValueError, TypeError: if an argument or an option in ``metric_cfg`` is not as expected.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from cleval_tm.lightning import CLEvalEvaluator
        >>> word = np.array([[10, 10], [90, 10], [90, 30], [10, 30]])
        >>> evaluator = CLEvalEvaluator(SimpleNamespace(anns={"a.jpg": [word, word + 50], "b.jpg": None}))
        >>> evaluator.update(["a.jpg"], [{"boxes": [word]}])["recall"]
        array([0.5])
        >>> evaluator.compute()["val/recall"]
        0.5
    """

    def __init__(
        self,
        dataset: Any,
        metric_cfg: Mapping[str, Any] | None = None,
        mode: str = "val",
        enable_validation: bool = True,
        missing: str = "skip",
    ) -> None:
        super().__init__()
        if missing not in ("skip", "zero"):
            raise ValueError(f"Expected argument `missing` to be 'skip' or 'zero' but got {missing!r}")
        self.dataset = dataset
        self.mode = mode
        self.enable_validation = enable_validation
        self.missing = missing
        self.metric = _metric_of(metric_cfg)
        self._annotations, self._names = _annotations_of(dataset)
        self._known = frozenset(self._names)
        self._encoded: dict[tuple[Any, ...], tuple[GroundTruth, int]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._missed_rows: dict[str, npt.NDArray[np.int64]] = {}

    def update(self, filenames: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> Scores:
        """Count a batch.

        Args:
            filenames: the images' file names, as the dataset has them.
            predictions: one dict an image: ``"boxes"`` (list of (P, 2) arrays or tensors, in the frame in
                which the image is shown), ``"orientation"`` (EXIF 0 to 8, by default 1), ``"raw_size"``
                (width, height) and ``"image_path"``, from which the size is read where ``"raw_size"`` is
                absent. Other keys are ignored.

        Returns:
            ``recall``, ``precision`` and ``hmean`` of each image, (n,) float64.

        Raises:
            ValueError, TypeError: if an image is unknown or not as expected; then nothing is counted.
        """
        if len(filenames) != len(predictions):
            raise ValueError(
                "Expected arguments `filenames` and `predictions` to be equally long but got "
                f"{len(filenames)} and {len(predictions)}"
            )
        for name in filenames:
            if name not in self._known:
                raise ValueError(
                    f"Expected argument `filenames` to name images of the dataset but got {name!r}, "
                    f"which is none of its {len(self._names)} images"
                )
        for name, prediction in zip(filenames, predictions, strict=True):
            if not isinstance(prediction, Mapping) or "boxes" not in prediction:
                raise TypeError(
                    f"Expected the prediction of image {name!r} to be a dict with 'boxes' but got {prediction!r}"
                )
        boxes = _on_host([() if given["boxes"] is None else given["boxes"] for given in predictions])
        preds = [
            {"polygons": _polygons(shapes), "image_id": name}
            for name, shapes in zip(filenames, boxes, strict=True)
        ]
        counts = self._counted(preds, self._ground_truth(filenames, predictions))
        self.metric.add_counts(counts, filenames)
        scores = image_scores(counts, self.metric.rules, e2e=False)
        return {short: scores[name] for short, name in _SHORT.items()}

    def compute(self) -> dict[str, float]:
        """Scores of the images predicted so far, over all ranks.

        Returns:
            ``{mode}/recall``, ``{mode}/precision``, ``{mode}/hmean``: means over images; and
            ``{mode}/corpus_recall``, ...: of the sums of their counts. Zeros where nothing was predicted.
        """
        table = self.metric.compute_table()
        counts = table[:, 1:]
        if self.missing == "zero":
            counts = np.concatenate((counts, self._missed(set(table[:, 0].tolist()))))
        means = mean_scores(counts, self.metric.rules, e2e=False)
        corpus = corpus_scores(counts, self.metric.rules, e2e=False)
        return {
            **{f"{self.mode}/{short}": means[f"mean_{name}"] for short, name in _SHORT.items()},
            **{f"{self.mode}/corpus_{short}": corpus[name] for short, name in _SHORT.items()},
        }

    def reset(self) -> None:
        """Forget all predictions; the encoded ground truth stays."""
        self.metric.reset()

    def _counted(self, preds: list[dict[str, Any]], truths: list[tuple[GroundTruth, int]]) -> IntTable:
        """(n, len(COUNTS)) counts, images whose ground truth was encoded together being counted together."""
        counts = np.empty((len(preds), len(COUNTS)), dtype=np.int64)
        groups: dict[int, list[int]] = {}
        for position, (truth, _) in enumerate(truths):
            groups.setdefault(id(truth), []).append(position)
        for positions in groups.values():
            target = truths[positions[0]][0].select([truths[position][1] for position in positions])
            some = [preds[position] for position in positions]
            counts[positions] = count_images(some, target, self.metric.rules, e2e=False).counts
        return counts

    def _ground_truth(
        self, filenames: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> list[tuple[GroundTruth, int]]:
        """Each image's encoded ground truth and its place in it; what is new is encoded, and kept."""
        frames = [
            (name, *self._frame(name, prediction))
            for name, prediction in zip(filenames, predictions, strict=True)
        ]
        new = [frame for frame in dict.fromkeys(frames) if frame not in self._encoded]
        if new:
            truth = GroundTruth([self._target(*frame) for frame in new], self.metric.rules, e2e=False)
            self._encoded.update((frame, (truth, index)) for index, frame in enumerate(new))
        return [self._encoded[frame] for frame in frames]

    def _frame(self, name: str, prediction: Mapping[str, Any]) -> tuple[int, int, int]:
        """(orientation, width, height) of the stored image; (1, 0, 0) where nothing is to be turned."""
        orientation = int(prediction.get("orientation", 1) or 1)
        if orientation not in TURNS:
            return 1, 0, 0
        size = prediction.get("raw_size")
        if size is None:
            if name not in self._sizes:
                self._sizes[name] = _size_on_disk(self._path(name, prediction))
            size = self._sizes[name]
        width, height = int(size[0]), int(size[1])
        return (orientation, width, height) if width > 0 and height > 0 else (1, 0, 0)

    def _path(self, name: str, prediction: Mapping[str, Any]) -> Path | None:
        if prediction.get("image_path") is not None:
            return Path(prediction["image_path"])
        folder = getattr(self.dataset, "image_path", None)
        return None if folder is None else Path(folder) / name

    def _target(self, name: str, orientation: int, width: int, height: int) -> dict[str, Any]:
        polygons = _polygons(self._annotations[name])
        return {
            "polygons": [to_displayed(polygon, orientation, width, height) for polygon in polygons],
            "image_id": name,
        }

    def _missed(self, predicted: set[int]) -> IntTable:
        """Rows of the dataset's images that are not among the ``predicted`` keys: nothing was detected."""
        names = [name for name in self._names if image_key(name) not in predicted]
        new = [name for name in names if name not in self._missed_rows]
        if new:
            target = [self._target(name, 1, 0, 0) for name in new]
            counted = count_images([{"polygons": []}] * len(new), target, self.metric.rules, e2e=False)
            self._missed_rows.update(zip(new, counted.counts, strict=True))
        rows = [self._missed_rows[name] for name in names]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(COUNTS))


def _metric_of(metric_cfg: Mapping[str, Any] | None) -> CLEvalMetric:
    options = {_FORK_NAMES.get(str(name), str(name)): value for name, value in (metric_cfg or {}).items()}
    for idle in _FORK_IDLE:
        options.pop(idle, None)
    rules = options.pop("rules", "upstage")
    base = {name: options.pop(name) for name in ("dist_sync_on_step",) if name in options}
    known = {field.name for field in fields(CLEvalRules)}
    for name in options:
        if name not in known:
            raise TypeError(
                "Expected argument `metric_cfg` to hold some of rules, "
                f"{', '.join(sorted(known | _FORK_NAMES.keys()))} but got {name!r}"
            )
    return CLEvalMetric(CLEvalRules.of(rules).replace(**options), e2e=False, **base)


def _annotations_of(dataset: Any) -> tuple[Mapping[str, Any], list[str]]:
    """The annotations by file name, and the names of the dataset's own images in their order."""
    if hasattr(dataset, "anns"):
        return dataset.anns, list(dataset.anns)
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        annotations, names = _annotations_of(dataset.dataset)
        return annotations, [names[index] for index in dataset.indices]
    raise TypeError(
        "Expected argument `dataset` to have `anns` (file names to polygons), or to be a Subset of a dataset "
        f"that has, but got {type(dataset).__name__}"
    )


def _size_on_disk(path: Path | None) -> tuple[int, int]:
    """(width, height) from the file's header; (0, 0) where there is no readable image."""
    if path is None or not path.is_file():
        return 0, 0
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            return int(width), int(height)
    except OSError:
        return 0, 0


def _on_host(boxes: list[Any]) -> list[Any]:
    """Each image's shapes; where they are tensors, as float32 arrays that came to the host in one copy."""
    tensors = [shape for shapes in boxes for shape in shapes if isinstance(shape, Tensor)]
    if not tensors:
        return boxes
    points = [tensor.detach().reshape(-1, 2).float() for tensor in tensors]
    flat = torch.cat(points).cpu().numpy()
    arrays = iter(np.split(flat, np.cumsum([len(some) for some in points])[:-1]))
    return [[next(arrays) if isinstance(shape, Tensor) else shape for shape in shapes] for shapes in boxes]


def _polygons(shapes: Any) -> list[npt.NDArray[Any]]:
    """Each shape as points (P, 2); shapes without points are left out."""
    polygons = [
        shape if type(shape) is np.ndarray and shape.ndim == 2 and shape.dtype.char != "d" else _points(shape)
        for shape in (() if shapes is None else shapes)
    ]
    return polygons if all(map(len, polygons)) else [polygon for polygon in polygons if len(polygon)]


def _points(shape: Any) -> npt.NDArray[Any]:
    if isinstance(shape, Tensor):
        shape = shape.cpu().numpy()
    if type(shape) is not np.ndarray or shape.dtype == np.float64:
        # the competition's code hands its shapes over in float32, and then truncates
        shape = np.asarray(shape, dtype=np.float32)
    points: npt.NDArray[Any] = shape if shape.ndim == 2 else shape.reshape(-1, 2)
    return points
