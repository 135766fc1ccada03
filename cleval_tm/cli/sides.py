"""The two sides of an evaluation, read from files: what was asked for, and what was found out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from cleval_tm.io.archive import image_key
from cleval_tm.io.formats import FORMATS, Request, load
from cleval_tm.io.icdar import Image, Reading
from cleval_tm.io.pairing import pair
from cleval_tm.io.problems import AnnotationError, settle

_UNITS = {"icdar": "line", "json": "word", "csv": "polygon"}


@dataclass
class Sides:
    """Predictions and ground truth of the same images, and how they were read."""

    gt_path: Path
    result_path: Path
    preds: list[Image]
    target: list[Image]
    gt: Request
    result: Request
    e2e: bool
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def requests(formats: str | None, both: Request) -> tuple[Request, Request]:
    """How to read ground truth and result, from ``--format``: one name for both, or two with a comma."""
    names = [None if name == "auto" else name for name in (formats or "auto").split(",")]
    if len(names) > 2 or any(name is not None and name not in FORMATS for name in names):
        raise ValueError(
            f"Expected --format to be auto, {', '.join(FORMATS)}, or two of them for ground truth and result "
            f"(such as json,csv) but got {formats!r}"
        )
    gt = replace(both, format=names[0], confidence=False)
    return gt, replace(both, format=names[-1])


def read_sides(
    gt_path: Path,
    result_path: Path,
    requests: tuple[Request, Request],
    *,
    e2e: bool | None,
    polygons_only: bool,
    lenient: bool,
) -> Sides:
    """Reads and pairs both sides.

    Args:
        gt_path: ground truth.
        result_path: predictions.
        requests: how to read the two.
        e2e: whether texts are scored; ``None`` if both sides carry some.
        polygons_only: leave every text aside (and with it the ``###`` that marks ignored words).
        lenient: skip bad lines, with a warning that counts them.

    Raises:
        AnnotationError: if a file is not as expected, or a side lacks the texts that ``e2e`` asks for.
    """
    start = time.perf_counter()
    gt, gt_request = load(gt_path, requests[0])
    settle_side(gt, gt_request, lenient)
    result, result_request = load(result_path, requests[1])
    settle_side(result, result_request, lenient)
    if gt_request.format != result_request.format:
        gt.images, result.images = by_key(gt.images, gt_path), by_key(result.images, result_path)
    notes = [told(gt_path, gt, gt_request), told(result_path, result, result_request)]
    if polygons_only and (gt_request.text or result_request.text):
        notes.append("scored by polygons alone: texts, and the ### of ignored words, are left aside")
    if polygons_only:
        for image in (*gt.images.values(), *result.images.values()):
            image.pop("texts", None)
    textless = [
        str(path)
        for path, request in ((gt_path, gt_request), (result_path, result_request))
        if not request.text or polygons_only
    ]
    if e2e and textless:
        raise AnnotationError(
            f"Expected texts on both sides with --e2e but {' and '.join(textless)} "
            f"{'are' if len(textless) == 2 else 'is'} read without; pass --no-e2e to score detection only"
        )
    preds, target = pair(gt.images, result.images)
    seconds = time.perf_counter() - start
    return Sides(
        gt_path,
        result_path,
        preds,
        target,
        gt_request,
        result_request,
        not textless if e2e is None else e2e,
        notes,
        seconds,
    )


def settle_side(reading: Reading, request: Request, lenient: bool) -> None:
    """Raises on bad lines, or warns how many were skipped."""
    settle(reading.problems, lenient, _UNITS[request.format or "icdar"])


def by_key(images: dict[str, Image], path: Path) -> dict[str, Image]:
    """Images by the key that every file format has in common."""
    keyed: dict[str, Image] = {}
    for name, image in images.items():
        if image_key(name) in keyed:
            raise AnnotationError(f"{path}: expected one entry an image but two are of {image_key(name)!r}")
        keyed[image_key(name)] = image
    return keyed


def told(path: Path, reading: Reading, request: Request) -> str:
    """One line about what a path was read as."""
    words = sum(
        len(image["boxes"] if "boxes" in image else image["polygons"]) for image in reading.images.values()
    )
    parts = [
        f"{request.format}",
        f"box type {request.box_type}",
        "with text" if request.text else "without text",
    ]
    if request.confidence:
        parts.append("with confidence")
    skipped = f", {len(reading.skipped_files)} other files passed over" if reading.skipped_files else ""
    return f"{path}: {', '.join(parts)}; {len(reading.images):,} images, {words:,} words{skipped}"
