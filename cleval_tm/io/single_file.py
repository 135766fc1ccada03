"""A whole data set in one file: annotation JSON with words by image, submission CSV with polygons alone."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.io.archive import require
from cleval_tm.io.icdar import Image, Reading
from cleval_tm.io.problems import AnnotationError, BadLine, settle, shorten

_TEXT_KEYS = ("transcription", "text")
_SIZE_KEYS = (("img_h", "img_w"), ("height", "width"))

Floats = npt.NDArray[np.float64]


def read_json(path: str | os.PathLike[str], *, lenient: bool = False) -> dict[str, Image]:
    """Reads an annotation JSON: ``{"images": {name: {"words": {id: {"points": [[x, y], ...]}}}}}``.

    A word may carry ``"transcription"`` or ``"text"``, and ``"confidence"``; an image may carry its size as
    ``"img_h"`` and ``"img_w"`` (or ``"height"`` and ``"width"``).

    Args:
        path: the file.
        lenient: skip bad words with one warning that counts them, instead of raising.

    Returns:
        for each image name a dict of ``"polygons"``, a list of (P, 2) float64 arrays; ``"texts"`` if any word
        of the file carries a text (a word without one has the empty text then); ``"scores"`` (N,) if every
        word carries a confidence, the words by falling confidence; ``"image_size"`` (height, width) if given.

    Raises:
        FileNotFoundError: if there is no such file.
        AnnotationError: if the file is not as expected; the message names the image and the word.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "val.json"
        >>> word = '{"points": [[0, 0], [9, 0], [9, 5], [0, 5]], "transcription": "total"}'
        >>> _ = file.write_text('{"images": {"a.jpg": {"words": {"1": %s}}}}' % word)
        >>> read_json(file)["a.jpg"]["texts"]
        ['total']
    """
    reading = load_json(Path(path))
    settle(reading.problems, lenient, "word")
    return reading.images


def read_csv(path: str | os.PathLike[str], *, lenient: bool = False) -> dict[str, Image]:
    """Reads a submission CSV: ``filename,polygons``, the polygons as ``x y x y ...|x y ...``.

    Args:
        path: the file; its first line names the columns.
        lenient: skip bad polygons with one warning that counts them, instead of raising.

    Returns:
        for each file name a dict of ``"polygons"``, a list of (P, 2) float64 arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        AnnotationError: if the file is not as expected; the message names the line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "submission.csv"
        >>> _ = file.write_text("filename,polygons\\na.jpg,0 0 9 0 9 5 0 5|20 0 29 0 29 5\\n")
        >>> [len(polygon) for polygon in read_csv(file)["a.jpg"]["polygons"]]
        [4, 3]
    """
    reading = load_csv(Path(path))
    settle(reading.problems, lenient, "polygon")
    return reading.images


def load_json(path: Path) -> Reading:
    """Reads every image of an annotation JSON; bad words are left out and listed."""
    try:
        document = json.loads(require(path).read_bytes().decode("utf-8-sig", "replace"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: expected JSON but got: {error}") from error
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, dict):
        raise AnnotationError(
            f'{path}: expected {{"images": {{name: {{"words": ...}}}}}} but found no such "images"'
        )
    reading = Reading({})
    for name, entry in images.items():
        reading.images[name] = _json_image(f"{path}: image {name!r}", entry, reading.problems)
    _settle_optional(reading.images)
    return reading


def _json_image(place: str, entry: Any, problems: list[str]) -> Image:
    words = entry.get("words") if isinstance(entry, dict) else entry
    if words is None:
        words = {}
    if not isinstance(words, dict):
        raise AnnotationError(f'{place}: expected {{"words": {{id: word}}}} but got {_shown(entry)}')
    image: Image = {"polygons": [], "texts": [], "scores": []}
    for key, word in words.items():
        try:
            polygon, text, score = _json_word(word)
        except BadLine as bad:
            problems.append(f"{place}, word {key!r}: {bad}")
            continue
        image["polygons"].append(polygon)
        image["texts"].append(text)
        image["scores"].append(score)
    for height, width in _SIZE_KEYS:
        if isinstance(entry, dict) and {height, width} <= entry.keys():
            image["image_size"] = (entry[height], entry[width])
            break
    return image


def _json_word(word: Any) -> tuple[Floats, str | None, float | None]:
    if not isinstance(word, dict) or "points" not in word:
        raise BadLine(f'expected {{"points": [[x, y], ...]}} but got {_shown(word)}')
    try:
        polygon = np.array(word["points"], np.float64)
    except (TypeError, ValueError):
        polygon = np.zeros(0)
    if polygon.ndim != 2 or polygon.shape[1] != 2 or not len(polygon) or _has_strings(word["points"]):
        raise BadLine(f'expected "points" to be [[x, y], ...] but got {_shown(word["points"])}')
    if not np.isfinite(polygon).all():
        raise BadLine(f'expected "points" to be finite but got {_shown(word["points"])}')
    text = next((word[key] for key in _TEXT_KEYS if word.get(key) is not None), None)
    if text is not None and not isinstance(text, str):
        raise BadLine(f"expected the text to be a string but got {_shown(text)}")
    score = word.get("confidence")
    if score is not None and (isinstance(score, bool | str) or not _finite(score)):
        raise BadLine(f'expected "confidence" to be a finite number but got {_shown(score)}')
    return polygon, text, score


def _settle_optional(images: dict[str, Image]) -> None:
    """Texts are kept if any word has one, or there is no word; confidences, which order words, if all have one."""
    texts = [text for image in images.values() for text in image["texts"]]
    has_texts = not texts or any(text is not None for text in texts)
    scores = [score for image in images.values() for score in image["scores"]]
    has_scores = bool(scores) and None not in scores
    for image in images.values():
        texts, scores = image.pop("texts"), image.pop("scores")
        if has_texts:
            image["texts"] = ["" if text is None else text for text in texts]
        if has_scores:
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            for key in ("polygons", "texts"):
                if key in image:
                    image[key] = [image[key][i] for i in order]
            image["scores"] = np.array([scores[i] for i in order], np.float64)


def load_csv(path: Path) -> Reading:
    """Reads every line of a submission CSV; bad polygons are left out and listed."""
    text = require(path).read_bytes().decode("utf-8-sig", "replace")
    limit = csv.field_size_limit(sys.maxsize)  # a page of words is longer than csv's 131,072 characters
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise AnnotationError(f"{path}: expected a CSV but got: {error}") from error
    finally:
        csv.field_size_limit(limit)
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"filename", "polygons"} <= set(header):
        raise AnnotationError(
            f"{path}, line 1: expected the columns filename,polygons but got {','.join(header)!r}"
        )
    reading = Reading({})
    name_column, polygons_column = header.index("filename"), header.index("polygons")
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        place = f"{path}, line {number}"
        if len(row) != len(header):
            raise AnnotationError(
                f"{place}: expected {len(header)} cells ({','.join(header)}) but got {len(row)}"
            )
        name = row[name_column].strip()
        if name in reading.images:
            raise AnnotationError(f"{place}: expected one line an image but {name!r} was there already")
        reading.images[name] = _csv_image(place, row[polygons_column], reading.problems)
    return reading


def _csv_image(place: str, cell: str, problems: list[str]) -> Image:
    polygons = []
    for number, polygon in enumerate(cell.split("|") if cell.strip() else [], start=1):
        try:
            polygons.append(_csv_polygon(polygon))
        except BadLine as bad:
            problems.append(f"{place}, polygon {number}: {bad}")
    return {"polygons": polygons}


def _csv_polygon(polygon: str) -> Floats:
    cells = polygon.split()
    try:
        values = np.array(list(map(float, cells)), np.float64)
    except ValueError:
        values = np.array([math.nan])
    if (
        not cells
        or len(cells) % 2
        or not np.isfinite(values).all()
        or "_" in polygon
        or not polygon.isascii()
    ):
        raise BadLine(f"expected finite numbers x y x y ... but got {shorten(polygon)}")
    return values.reshape(-1, 2)


def _has_strings(points: Any) -> bool:
    return any(isinstance(value, str | bool) for point in points for value in point)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
