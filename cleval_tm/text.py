"""Texts to letters: normalisation, case, and what counts as one character."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from cleval_tm.rules import CLEvalRules

_FIRST_CLUSTER = 0x110000  # one past the last code point
_clusters: dict[str, int] = {}


def transformed(texts: Sequence[str], rules: CLEvalRules) -> Sequence[str]:
    """The texts as the rules compare them: normalised, then upper-cased where case does not count."""
    if rules.normalization == "width":
        table = _width_table()
        texts = [text.translate(table) for text in texts]
    elif rules.normalization is not None:
        form = rules.normalization
        texts = [unicodedata.normalize(form, text) for text in texts]  # type: ignore[arg-type]
    return texts if rules.case_sensitive else [text.upper() for text in texts]


def letters_of(
    texts: Sequence[str], rules: CLEvalRules
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Letters as integers that are equal exactly where the characters are.

    Args:
        texts: n transformed texts.
        rules: tells whether a character is a code point or a grapheme cluster.

    Returns:
        (letters, lengths): all texts' letters, one behind the other, int32; (n,) int64.
    """
    if rules.text_unit == "grapheme":
        return _clusters_of(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(bytearray(joined), np.int32), lengths


def lengths_of(texts: Sequence[str], rules: CLEvalRules) -> npt.NDArray[np.int64]:
    """Characters of each transformed text, (n,) int64."""
    if rules.text_unit == "grapheme":
        return _clusters_of(texts)[1]
    return np.fromiter(map(len, texts), np.int64, len(texts))


def _clusters_of(texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    try:
        import regex
    except ImportError as error:
        raise ImportError(
            "text_unit='grapheme' needs the package `regex`: pip install 'cleval-tm[graphemes]'"
        ) from error
    split = regex.compile(r"\X").findall
    found = [split(text) for text in texts]
    letters = [
        ord(cluster) if len(cluster) == 1 else _clusters.setdefault(cluster, _FIRST_CLUSTER + len(_clusters))
        for clusters in found
        for cluster in clusters
    ]
    return np.array(letters, np.int32), np.fromiter(map(len, found), np.int64, len(found))


@cache
def _width_table() -> dict[int, str]:
    """Full-width and half-width forms to their ordinary characters."""
    table = {}
    for code in (0x3000, *range(0xFF00, 0xFFF0)):
        kind, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        if kind in ("<wide>", "<narrow>"):
            table[code] = chr(int(plain, 16))
    return table
