"""Ground truth and predictions side by side, and the sizes of their images."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cleval_tm.io.archive import image_key, require
from cleval_tm.io.icdar import Image
from cleval_tm.io.problems import AnnotationError

Size = tuple[float, float]


def pair(gt: Mapping[str, Image], pred: Mapping[str, Image]) -> tuple[list[Image], list[Image]]:
    """Predictions and ground truth of the same images, in the order of ``gt``.

    Args:
        gt: ground truth by image id.
        pred: predictions by image id; an image that is absent here has no detections.

    Returns:
        ``(preds, target)``, two lists of ``len(gt)`` dicts with ``"image_id"`` set; the dicts of ``gt`` and
        ``pred`` themselves stay as they are.

    Raises:
        AnnotationError: if ``pred`` has an image that ``gt`` lacks; it is named, with how many more.

    Example:
        >>> gt = {"a": {"boxes": [[0, 0, 9, 9]], "texts": ["x"]}, "b": {"boxes": [], "texts": []}}
        >>> preds, target = pair(gt, {"a": {"boxes": [[0, 0, 9, 9]], "texts": ["x"]}})
        >>> [image["image_id"] for image in preds], preds[1]["texts"]
        (['a', 'b'], [])
    """
    unknown = [image for image in pred if image not in gt]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        example = next(iter(gt), None)
        composed = {unicodedata.normalize("NFC", image) for image in gt}
        if unicodedata.normalize("NFC", unknown[0]) in composed:
            more += ", whose name is there in another Unicode form (NFC, NFD)"
        known = f", such as {example!r}" if example is not None else ""
        raise AnnotationError(
            f"Expected every image of the result to be in the ground truth but it lacks {unknown[0]!r}{more}"
            f"; the ground truth has {len(gt)} images{known}"
        )
    preds = [{**(pred[image] if image in pred else _nothing_found(pred)), "image_id": image} for image in gt]
    target = [{**image, "image_id": name} for name, image in gt.items()]
    return preds, target


def _nothing_found(pred: Mapping[str, Image]) -> Image:
    """An image without detections, with the keys that the others have."""
    like: Image = next(iter(pred.values()), {"texts": []})
    empty: Image = {"boxes": np.zeros((0, 4))} if "boxes" in like else {"polygons": np.zeros((0, 4, 2))}
    if "texts" in like:
        empty["texts"] = []
    if "scores" in like:
        empty["scores"] = np.zeros(0)
    return empty


def image_sizes(sizes: str | os.PathLike[str]) -> Mapping[str, Size] | Size:
    """Image sizes from a file, or the one size that all images have.

    Args:
        sizes: ``"WIDTHxHEIGHT"``, or the path of a CSV (``image,width,height``, with or without that header
            line) or of a JSON (``{image: [width, height]}`` or ``{image: {"width": ..., "height": ...}}``).

    Returns:
        (height, width) by image id, or one (height, width).

    Raises:
        FileNotFoundError: if there is no such file.
        AnnotationError: if the file is not as expected; the message names the line or the image.

    Example:
        >>> image_sizes("1280x720")
        (720.0, 1280.0)
    """
    one = re.fullmatch(r"(\d+)x(\d+)", str(sizes))
    if one and int(one[1]) and int(one[2]):
        return float(one[2]), float(one[1])
    path = require(sizes)
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    return _sizes_json(path, content) if content.lstrip()[:1] in ("{", "[") else _sizes_csv(path, content)


def with_sizes(target: list[Image], sizes: Mapping[str, Size] | Size) -> None:
    """Sets ``"image_size"`` in every dict of ``target``.

    Raises:
        AnnotationError: if an image has no size; it is named, with how many more there are.
    """
    if isinstance(sizes, tuple):
        for image in target:
            image["image_size"] = sizes
        return
    by_key = {**{image_key(Path(name).name): size for name, size in sizes.items()}, **sizes}
    missing = []
    for image in target:
        size = (
            by_key.get(image["image_id"])
            or by_key.get(image_key(image["image_id"]))
            or image.get("image_size")
        )
        if size is None:
            missing.append(image["image_id"])
        else:
            image["image_size"] = size
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise AnnotationError(f"Expected a size for every image but {missing[0]!r}{more} has none")


def _sizes_csv(path: Path, content: str) -> dict[str, Size]:
    sizes = {}
    columns = (0, 1, 2)
    for number, row in enumerate(csv.reader(content.splitlines()), start=1):
        if not row:
            continue
        names = [cell.strip().lower() for cell in row]
        if number == 1 and "width" in names and "height" in names:
            others = [column for column, name in enumerate(names) if name not in ("width", "height")]
            columns = (others[0] if others else 0, names.index("width"), names.index("height"))
            continue
        place = f"{path}, line {number}"
        if len(row) <= max(columns):
            raise AnnotationError(f"{place}: expected image,width,height but got {','.join(row)!r}")
        name, width, height = (row[column].strip() for column in columns)
        sizes[name] = _size(width, height, place)
    return sizes


def _sizes_json(path: Path, content: str) -> dict[str, Size]:
    try:
        entries = json.loads(content)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: expected JSON but got: {error}") from error
    if not isinstance(entries, dict):
        raise AnnotationError(f"{path}: expected {{image: [width, height]}} but got {content[:40]!r}")
    sizes = {}
    for name, entry in entries.items():
        place = f"{path}: image {name!r}"
        if isinstance(entry, dict) and {"width", "height"} <= entry.keys():
            sizes[name] = _size(entry["width"], entry["height"], place)
        elif isinstance(entry, list) and len(entry) == 2:
            sizes[name] = _size(entry[0], entry[1], place)
        else:
            raise AnnotationError(f"{place}: expected [width, height] but got {entry!r}")
    return sizes


def _size(width: Any, height: Any, place: str) -> Size:
    try:
        size = float(height), float(width)
    except (TypeError, ValueError):
        size = math.nan, math.nan
    if not all(math.isfinite(side) and side > 0 for side in size):
        raise AnnotationError(
            f"{place}: expected width and height to be above 0 but got {width!r}, {height!r}"
        )
    return size
