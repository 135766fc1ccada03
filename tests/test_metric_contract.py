"""The table of docs/metric.md: what it says of our metric holds, and its script and the page agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import metric_contract as contract

PAGE = Path(__file__).parent.parent / "docs" / "metric.md"


@pytest.fixture(scope="module")
def subjects():
    return {subject.name: subject for subject in contract.subjects()}


@pytest.mark.parametrize(("text", "check"), contract.CHECKS, ids=[text for text, _ in contract.CHECKS])
def test_ours_passes(subjects, text, check):
    assert contract.outcome(check, subjects["ours"]) == "passes"


@pytest.mark.oracle
@pytest.mark.parametrize(("text", "check"), contract.CHECKS, ids=[text for text, _ in contract.CHECKS])
def test_the_page_says_what_the_official_class_does(subjects, text, check):
    if "official" not in subjects:
        pytest.skip("the official package is not installed (extra `oracle`)")
    row = f"| {text} | passes | {contract.outcome(check, subjects['official'])} |"
    # which exception it raises depends on the versions of its dependencies
    assert re.sub(r" \(\w+\)", "", row) in re.sub(r" \(\w+\)", "", PAGE.read_text(encoding="utf-8"))
