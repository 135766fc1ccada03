"""Which of the file formats a path holds, and one way to read them all."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cleval_tm.io.archive import MAX_BYTES, Source, require
from cleval_tm.io.icdar import Layout, Reading, carries_text, load_icdar
from cleval_tm.io.problems import AnnotationError
from cleval_tm.io.single_file import load_csv, load_json

FORMATS = ("icdar", "json", "csv")


@dataclass(frozen=True)
class Request:
    """How a path is to be read; ``None`` stands for "find out".

    Attributes:
        format: one of :data:`FORMATS`.
        box_type: ``"quad"``, ``"ltrb"`` or ``"poly"``; quads in ICDAR files and polygons elsewhere if None.
        text: whether ICDAR lines end in a text.
        confidence: whether ICDAR lines carry a confidence.
        max_bytes: most bytes that a ZIP may unpack to.
    """

    format: str | None = None
    box_type: str | None = None
    text: bool | None = None
    confidence: bool = False
    max_bytes: int = MAX_BYTES


def detect_format(path: str | os.PathLike[str]) -> str:
    """What a path holds, by its content: ``"icdar"`` (a ZIP or a folder), ``"json"`` or ``"csv"``.

    Raises:
        FileNotFoundError: if the path does not exist.
        AnnotationError: if it is none of them.

    Example:
        >>> import pathlib, tempfile
        >>> detect_format(tempfile.mkdtemp())
        'icdar'
    """
    found = require(path)
    if found.is_dir() or zipfile.is_zipfile(found):
        return "icdar"
    with found.open("rb") as file:
        start = file.read(4096)
    text = start.decode("utf-8-sig", "replace").lstrip()
    if start[:2] == b"PK" or found.suffix.lower() == ".zip":
        return "icdar"  # whose reader says what is wrong with it
    if text[:1] in ("{", "["):
        return "json"
    header = {name.strip().lower() for name in text.partition("\n")[0].split(",")}
    if {"filename", "polygons"} <= header:
        return "csv"
    raise AnnotationError(
        f"{found}: expected a ZIP or a folder of text files, an annotation JSON, or a CSV with the columns "
        f"filename,polygons, but its content is none of them"
    )


def load(path: str | os.PathLike[str], request: Request) -> tuple[Reading, Request]:
    """Reads ``path``; bad lines are left out and listed.

    Returns:
        what was read, and the request with what was found out filled in.
    """
    found = require(path)
    kind = request.format or detect_format(found)
    if kind == "icdar":
        box_type = request.box_type or "quad"
        text = request.text
        if text is None:
            text = carries_text(Source(found, request.max_bytes), box_type, request.confidence)
        layout = Layout(box_type, text, request.confidence)
        reading = load_icdar(Source(found, request.max_bytes), layout)
        return reading, replace(request, format=kind, box_type=box_type, text=text)
    if request.box_type == "ltrb":
        raise ValueError(f"Expected box type quad or poly for a {kind} file but got ltrb ({found})")
    reading = load_json(found) if kind == "json" else load_csv(found)
    if request.box_type == "quad":
        _to_quads(found, reading)
    text = any("texts" in image for image in reading.images.values())
    return reading, replace(request, format=kind, box_type=request.box_type or "poly", text=text)


def _to_quads(path: Path, reading: Reading) -> None:
    """Polygons as quads, where that is what all of them are said to be."""
    for name, image in reading.images.items():
        for number, polygon in enumerate(image["polygons"], start=1):
            if len(polygon) != 4:
                raise AnnotationError(
                    f"{path}: image {name!r}, word {number}: expected 4 points in box type quad but got "
                    f"{len(polygon)}"
                )
        image["polygons"] = np.array(image["polygons"], np.float64).reshape(-1, 4, 2)
