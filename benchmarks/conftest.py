"""Fixtures of the benchmarks, and how they say what they measure.

A benchmark notes in ``extra_info`` which ``claims`` it bears on, in which ``role`` (``ours`` or ``peer``), and
``what`` ran. ``benchmarks/report.py`` turns a run into ratios by claim; a figure that is no time goes into
``figures``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import corpora
from benchmarks.peers import official

Note = Callable[..., None]


@pytest.fixture
def note(benchmark: Any) -> Note:
    """Say what this benchmark measures, and for which claims."""

    def write(what: str, *claims: str, role: str = "ours", **figures: float | str) -> None:
        benchmark.extra_info.update(what=what, claims=list(claims), role=role, figures=figures)

    return write


@pytest.fixture(scope="session")
def korean_documents() -> tuple[corpora.Images, corpora.Images]:
    if corpora.folder() is None:
        pytest.skip("the published files are not here: set CLEVAL_TM_DATA to their folder")
    return corpora.korean_documents()


@pytest.fixture(scope="session")
def total_text() -> tuple[corpora.Images, corpora.Images]:
    if corpora.folder() is None:
        pytest.skip("the published files are not here: set CLEVAL_TM_DATA to their folder")
    return corpora.total_text()


@pytest.fixture
def needs_official() -> None:
    reason = official.missing()
    if reason is not None:
        pytest.skip(reason)
