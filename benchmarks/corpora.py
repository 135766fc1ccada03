"""What the benchmarks measure on: the published files, and pages made on the spot."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cleval_tm import io

Images = list[dict[str, Any]]


def folder() -> Path | None:
    """The folder of published files: ``CLEVAL_TM_DATA``, else beside the repository."""
    given = os.environ.get("CLEVAL_TM_DATA")
    place = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return place if (place / "reference.json").is_file() else None


@cache
def published(gt: str, res: str, box_type: str) -> tuple[Images, Images]:
    """(predictions, targets) of two published files."""
    place = folder()
    assert place is not None
    return io.pair(io.read_icdar(place / gt, box_type), io.read_icdar(place / res, box_type))


def korean_documents() -> tuple[Images, Images]:
    """100 documents of about 105 words, as quads with texts."""
    return published("gt_eval_doc_v1_kr.zip", "res_eval_doc_v1_kr.zip", "quad")


def total_text() -> tuple[Images, Images]:
    """300 pictures with curved words, as polygons with texts."""
    return published("gt_TotalText.zip", "res_TotalText_perturbed.zip", "poly")


def quads_around(centres: np.ndarray, sizes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Quads (N, 4, 2) of sizes (N, 2), turned by angles (N,) in radians about centres (N, 2)."""
    corners = sizes[:, None] * np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = corners[..., 0], corners[..., 1]
    return np.stack((x * cos - y * sin, x * sin + y * cos), axis=-1) + centres[:, None]


@cache
def page(words: int, *, hard: bool) -> tuple[Images, Images]:
    """One image: a grid of words and jittered detections; ``hard`` turns them and makes 5 % ten words long."""
    rng = np.random.default_rng(words)
    side = int(np.ceil(np.sqrt(words)))
    centres = np.stack((np.arange(words) % side * 60.0, np.arange(words) // side * 30.0), axis=1)
    sizes = np.tile((50.0, 16.0), (words, 1))
    angles = np.zeros(words)
    if hard:
        sizes[rng.random(words) < 0.05, 0] *= 10
        angles = rng.uniform(0, 2 * np.pi, words)
    quads = quads_around(centres, sizes, angles)
    texts = ["words"] * words
    jittered = quads + rng.normal(0, 2, (words, 1, 2))
    return [{"polygons": jittered, "texts": texts}], [{"polygons": quads, "texts": texts}]


@cache
def receipts(
    images: int = 404, words: int = 100
) -> tuple[list[str], list[list[np.ndarray]], list[list[np.ndarray]]]:
    """(file names, detected polygons, annotated polygons) of receipts: int arrays (4, 2), a list an image."""
    rng = np.random.default_rng(404)
    names, detected, annotated = [], [], []
    for number in range(images):
        centres = np.stack((rng.uniform(60, 660, words), np.arange(words) * 12 + 20.0), axis=1)
        sizes = np.stack((rng.uniform(20, 160, words), np.full(words, 11.0)), axis=1)
        angles = rng.normal(0, 0.02, words)
        truth = quads_around(centres, sizes, angles).round().astype(np.int32)
        found = quads_around(
            centres + rng.normal(0, 1.5, (words, 2)), sizes * rng.uniform(0.85, 1.1, (words, 2)), angles
        )
        names.append(f"receipt_{number:04d}.jpg")
        annotated.append(list(truth))
        detected.append(list(found.round().astype(np.int32)))
    return names, detected, annotated
