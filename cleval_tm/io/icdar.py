"""Annotations in the style of the ICDAR challenges: a text file an image, a line a word.

A whole file is parsed at once; only where that fails is it walked line by line, to say which line it was.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.io.archive import MAX_BYTES, Entry, Source
from cleval_tm.io.problems import BadLine, settle, shorten

BOX_TYPES = ("quad", "ltrb", "poly")
_COORDINATES = {"quad": ("x1,y1,...,x4,y4", 8), "ltrb": ("xmin,ymin,xmax,ymax", 4)}

Floats = npt.NDArray[np.float64]
Image = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What a line holds: the kind of its shape, and whether a confidence and a text follow."""

    box_type: str = "quad"
    text: bool = True
    confidence: bool = False

    def __post_init__(self) -> None:
        if self.box_type not in BOX_TYPES:
            expected = "one of " + ", ".join(BOX_TYPES)
            raise ValueError(f"Expected argument `box_type` to be {expected} but got {self.box_type!r}")

    def __str__(self) -> str:
        shape = "x1,y1,...,xn,yn" if self.box_type == "poly" else _COORDINATES[self.box_type][0]
        return shape + ",confidence" * self.confidence + ",text" * self.text


@dataclass
class Reading:
    """What was read: the images, the bad lines that were left out, and the files that were not read."""

    images: dict[str, Image]
    problems: list[str] = field(default_factory=list)
    skipped_files: list[str] = field(default_factory=list)


def read_icdar(
    path: str | os.PathLike[str],
    box_type: str = "quad",
    text: bool = True,
    confidence: bool = False,
    *,
    lenient: bool = False,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Image]:
    r"""Reads a ZIP or a folder of text files, one an image, one word a line.

    Lines are ``x1,y1,x2,y2,x3,y3,x4,y4[,confidence][,text]`` (``"quad"``),
    ``xmin,ymin,xmax,ymax[,confidence][,text]`` (``"ltrb"``) or ``x1,y1,...,xn,yn[,confidence][,text]``
    (``"poly"``). Folders, hidden files and ``__MACOSX`` in a ZIP are passed over, and so is everything else
    where there are ``.txt`` files.

    Args:
        path: the ZIP or the folder.
        box_type: ``"quad"``, ``"ltrb"`` or ``"poly"``.
        text: whether lines end in a transcription.
        confidence: whether a confidence follows the coordinates; words then come by falling confidence.
        lenient: skip bad lines with one warning that counts them, instead of raising.
        max_bytes: most bytes that a ZIP may unpack to.

    Returns:
        for each image id (the file's name without ``gt_``, ``res_``, ``.txt``, ``.json`` and ``.jpg``) a dict
        of ``"polygons"`` (N, 4, 2) float64, or ``"boxes"`` (N, 4) as xyxy for ``"ltrb"``, or ``"polygons"``
        as a list of (P, 2) arrays for ``"poly"``; with ``text``, ``"texts"``, a list of N strings; with
        ``confidence``, ``"scores"`` (N,) float64.

    Raises:
        FileNotFoundError: if the path does not exist.
        AnnotationError: if the ZIP cannot be read or is too large, or a line is not as expected (a
            ``ValueError``; the message names file and line, what was expected and what came).

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "gt_img_1.txt").write_text('10,10,90,10,90,30,10,30,"Hello, you"\n')
        >>> image = read_icdar(folder)["img_1"]
        >>> image["texts"], image["polygons"].shape
        (['Hello, you'], (1, 4, 2))

    Source:
        The file formats of the ICDAR Robust Reading Competition, as ``cleval`` 0.1.1 reads them.
    """
    reading = load_icdar(Source(Path(path), max_bytes), Layout(box_type, text, confidence))
    settle(reading.problems, lenient)
    return reading.images


def load_icdar(source: Source, layout: Layout) -> Reading:
    """Reads every file of ``source``; bad lines are left out and listed."""
    reading = Reading({}, skipped_files=source.skipped)
    parse = _parse_polygons if layout.box_type == "poly" else _parse_rows
    for entry in source.entries():
        reading.images[entry.image] = parse(entry, layout, reading.problems)
    return reading


def lines_of(entry: Entry) -> list[str]:
    """The lines of a file, empty ones among them."""
    text = entry.content.decode("utf-8", "replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").removesuffix("\r").split("\n")


def carries_text(source: Source, box_type: str, confidence: bool, enough: int = 1000) -> bool:
    """Whether lines end in a text, by the majority of the first ``enough`` of them; yes if there are none."""
    votes = seen = 0
    for entry in source.entries():
        for line in lines_of(entry):
            if line and not line.isspace():
                votes += _text_vote(line.split(","), box_type, confidence)
                seen += 1
        if seen >= enough:
            break
    return votes >= 0


def _text_vote(cells: list[str], box_type: str, confidence: bool) -> int:
    """1 for a line with a text, -1 for one without, 0 for one that has too few numbers to tell."""
    leading = _leading_numbers(cells)
    if box_type == "poly":
        with_text = leading < len(cells) or len(cells) % 2 != confidence
        least = 2 + confidence
    else:
        least = _COORDINATES[box_type][1] + confidence
        with_text = len(cells) > least
    return (1 if with_text else -1) if leading >= least else 0


def _parse_rows(entry: Entry, layout: Layout, problems: list[str]) -> Image:
    """A file of quads or boxes: so many numbers a line, the same for all."""
    lines = lines_of(entry)
    kept = [line for line in lines if line and not line.isspace()]
    width = _COORDINATES[layout.box_type][1] + layout.confidence
    rows = [line.split(",", width if layout.text else -1) for line in kept]
    numbers = _whole_table(rows, width, layout)
    if numbers is None:
        rows, numbers = _row_by_row(entry.place, lines, width, layout, problems)
    texts = [_unquoted(row[width]) for row in rows] if layout.text else None
    scores = numbers[:, -1] if layout.confidence else None
    if layout.box_type == "ltrb":
        return _by_confidence({"boxes": numbers[:, :4]}, texts, scores)
    return _by_confidence({"polygons": numbers[:, :8].reshape(-1, 4, 2)}, texts, scores)


def _whole_table(rows: list[list[str]], width: int, layout: Layout) -> Floats | None:
    """All the numbers of a file at once, or None where something in it is wrong."""
    cells = width + layout.text
    if any(len(row) != cells for row in rows):
        return None
    flat = [cell for row in rows for cell in row[:width]]
    try:
        values = np.array(list(map(float, flat)), np.float64).reshape(len(rows), width)
    except ValueError:
        return None
    if not np.isfinite(values).all() or not _plain("".join(flat)):
        return None
    if layout.box_type == "ltrb" and (values[:, :2] > values[:, 2:4]).any():
        return None
    return values


def _row_by_row(
    place: str, lines: list[str], width: int, layout: Layout, problems: list[str]
) -> tuple[list[list[str]], Floats]:
    """The good lines of a file, and what is wrong with the others."""
    rows, numbers = [], []
    for number, line in enumerate(lines, start=1):
        if not line or line.isspace():
            continue
        row = line.split(",", width if layout.text else -1)
        try:
            numbers.append(_row_numbers(row, line, width, layout))
            rows.append(row)
        except BadLine as bad:
            problems.append(f"{place}, line {number}: {bad}")
    return rows, np.array(numbers, np.float64).reshape(len(rows), width)


def _row_numbers(row: list[str], line: str, width: int, layout: Layout) -> list[float]:
    expected = f"expected {_numbers(width)}{' and a text' if layout.text else ''} ({layout})"
    if len(row) != width + layout.text:
        count = line.count(",") + 1
        raise BadLine(f"{expected} but got {_cells(count)}: {shorten(line)}{_hint(line, layout)}")
    values = [_number(cell, line) for cell in row[:width]]
    if layout.box_type == "ltrb":
        for low, high, axis in ((values[0], values[2], "x"), (values[1], values[3], "y")):
            if high < low:
                raise BadLine(
                    f"expected {axis}max to be at least {axis}min but got {axis}min={low:g} and "
                    f"{axis}max={high:g}: {shorten(line)}{_hint(line, layout)}"
                )
    return values


def _hint(line: str, layout: Layout) -> str:
    """What the line rather looks like."""
    cells = line.count(",") + 1
    leading = _leading_numbers(line.split(","))
    if layout.box_type == "quad" and leading == 4 and cells in (4, 5):
        return "; boxes of 4 numbers are box type 'ltrb'"
    if layout.box_type == "ltrb" and leading == 8:
        return "; quads of 8 numbers are box type 'quad'"
    if layout.box_type == "quad" and leading > 9 and not layout.text:
        return "; polygons of other than 4 points are box type 'poly'"
    if layout.box_type == "quad" and not layout.text and cells > 8 + layout.confidence:
        return "; does a confidence or a text follow the coordinates?"
    if cells == 1 and len(line.split()) >= 4:
        return "; numbers are separated by commas"
    return ""


def _parse_polygons(entry: Entry, layout: Layout, problems: list[str]) -> Image:
    """A file of polygons: each line has as many numbers as its shape needs."""
    polygons: list[Floats] = []
    texts: list[str] = []
    scores: list[float] = []
    for number, line in enumerate(lines_of(entry), start=1):
        if not line or line.isspace():
            continue
        try:
            values, text = _polygon_line(line, layout)
        except BadLine as bad:
            problems.append(f"{entry.place}, line {number}: {bad}")
            continue
        if layout.confidence:
            scores.append(values.pop())
        polygons.append(np.array(values, np.float64).reshape(-1, 2))
        texts.append(text)
    kept = np.array(scores, np.float64) if layout.confidence else None
    return _by_confidence({"polygons": polygons}, texts if layout.text else None, kept)


def _polygon_line(line: str, layout: Layout) -> tuple[list[float], str]:
    """Coordinates (with the confidence, where there is one, as the last number) and text of a line."""
    cells = line.split(",")
    leading = _leading_numbers(cells[:-1] if layout.text else cells)
    used = leading - (leading - layout.confidence) % 2
    whole = layout.text or used == len(cells)
    if used < 2 + layout.confidence or not whole:
        wanted = "an even number of coordinates"
        wanted += " and a confidence" * layout.confidence + " and a text" * layout.text
        came = _numbers(leading)
        came += f" and then {shorten(cells[leading])}" if leading < len(cells) else ""
        raise BadLine(f"expected {wanted} ({layout}) but got {came}: {shorten(line)}")
    return [_number(cell, line) for cell in cells[:used]], _unquoted(",".join(cells[used:]))


def _leading_numbers(cells: list[str]) -> int:
    """How many cells from the start on are numbers (NaN and infinities among them)."""
    for count, cell in enumerate(cells):
        try:
            float(cell)
        except ValueError:
            return count
    return len(cells)


def _number(cell: str, line: str) -> float:
    try:
        value = float(cell) if _plain(cell) else None
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        raise BadLine(f"expected a finite number but got {shorten(cell)}: {shorten(line)}")
    return value


def _plain(cells: str) -> bool:
    """Whether no cell is a number in Python's eyes only (``1_000``, digits of other scripts)."""
    return cells.isascii() and "_" not in cells


def _unquoted(text: str) -> str:
    """``text`` without the double quotes around it, if it has them."""
    if '"' not in text:
        return text
    inside = text.strip()
    if len(inside) >= 2 and inside[0] == inside[-1] == '"':
        return inside[1:-1].replace("\\\\", "\\").replace('\\"', '"')
    return text


def _by_confidence(shapes: Image, texts: list[str] | None, scores: Floats | None) -> Image:
    """The image's dict, its words by falling confidence where there is one; equal ones keep their order."""
    image = dict(shapes)
    if texts is not None:
        image["texts"] = texts
    if scores is None:
        return image
    order = np.argsort(-scores, kind="stable")
    for key, words in image.items():
        image[key] = words[order] if isinstance(words, np.ndarray) else [words[i] for i in order.tolist()]
    return {**image, "scores": scores[order]}


def _numbers(count: int) -> str:
    return f"{count} number" + "s" * (count != 1)


def _cells(count: int) -> str:
    return f"{count} cell" + "s" * (count != 1)
