"""Where the published files are, and which of the tests run long."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import data_folder

from cleval_tm import io

PLACE = data_folder() or Path()

needs_data = pytest.mark.skipif(
    data_folder() is None, reason="the published files are not here: set CLEVAL_TM_DATA to their folder"
)


@cache
def reference() -> dict[str, Any]:
    """What each implementation printed, by data set."""
    figures: dict[str, Any] = json.loads((PLACE / "reference.json").read_text(encoding="utf-8"))
    return figures


@cache
def images(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(predictions, targets) of a data set."""
    row = reference()[name]
    box_type = row["box_type"].lower()
    gt = io.read_icdar(PLACE / row["gt"], box_type)
    return io.pair(gt, io.read_icdar(PLACE / row["res"], box_type, text=has_texts(name)))


def has_texts(name: str) -> bool:
    """Whether the detections of a data set bring texts."""
    return "carries no text" not in reference()[name].get("note", "")


def long_run(request: pytest.FixtureRequest, default: int) -> tuple[int, int]:
    """How many images and from which seed (CLEVAL_TM_IMAGES, CLEVAL_TM_SEED); skips unless -m long."""
    if "long" not in (request.config.option.markexpr or ""):
        pytest.skip("a long run: select it with -m long")
    return int(os.environ.get("CLEVAL_TM_IMAGES", default)), int(os.environ.get("CLEVAL_TM_SEED", 10_000_000))
