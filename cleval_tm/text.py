"""Texts to letters: normalisation, case, and what counts as one character."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.letters import read_texts
from cleval_tm.rules import CLEvalRules

_FIRST_CLUSTER = 0x110000  # one past the last code point
_NO_LETTER = -1
_clusters: dict[str, int] = {}


def transformed(texts: list[list[str]], rules: CLEvalRules) -> list[list[str]]:
    """Lists of texts as the rules compare them: normalised, then upper-cased where case does not count."""
    if rules.normalization == "width":
        table = _width_table()
        texts = [[text.translate(table) for text in mine] for mine in texts]
    elif rules.normalization is not None:
        form = rules.normalization
        texts = [[unicodedata.normalize(form, text) for text in mine] for mine in texts]  # type: ignore[arg-type]
    return texts if rules.case_sensitive else [[text.upper() for text in mine] for mine in texts]


class Texts(NamedTuple):
    """Letters of n texts, as integers that are equal exactly where the characters are."""

    letters: npt.NDArray[np.int32]
    """All texts' letters, and one more behind each text to part it from the next."""
    letter_start: npt.NDArray[np.int64]
    """(n + 1,) first letter of each text: text i has ``letter_start[i + 1] - letter_start[i] - 1`` of them."""
    is_hashes: npt.NDArray[np.bool_]
    """(n,) whether it is ``###``, the text of ignored words."""
    some_hashes: bool


def letters_of(texts: Sequence[list[str]], list_start: npt.NDArray[np.int64], rules: CLEvalRules) -> Texts:
    """The letters of transformed texts.

    Args:
        texts: lists of n texts in all.
        list_start: how many there are before each list, and in all.
        rules: tells whether a character is a code point or a grapheme cluster.

    Raises:
        TypeError: if a text is no str.
    """
    n = int(list_start[-1])
    letter_start = np.empty(n + 1, np.int64)
    is_hashes = np.empty(n, np.bool_)
    lists = np.array([id(mine) for mine in texts], np.int64)
    letters, read, hashes = read_texts(lists, list_start, letter_start, is_hashes)
    if read < n:
        raise TypeError(f"Expected texts to be str but number {read} is none")
    if rules.text_unit == "grapheme":
        letters, letter_start = _clusters_of(texts)
    return Texts(letters, letter_start, is_hashes, hashes > 0)


def _clusters_of(texts: Sequence[list[str]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The clusters of each text, and no letter behind it; where each text's start, and the last one's end."""
    try:
        import regex
    except ImportError as error:
        raise ImportError(
            "text_unit='grapheme' needs the package `regex`: pip install 'cleval-tm[graphemes]'"
        ) from error
    split = regex.compile(r"\X").findall
    letters: list[int] = []
    starts = [0]
    for text in chain.from_iterable(texts):
        letters += [
            ord(cluster)
            if len(cluster) == 1
            else _clusters.setdefault(cluster, _FIRST_CLUSTER + len(_clusters))
            for cluster in split(text)
        ]
        letters.append(_NO_LETTER)
        starts.append(len(letters))
    return np.array(letters, np.int32), np.array(starts, np.int64)


@cache
def _width_table() -> dict[int, str]:
    """Full-width and half-width forms to their ordinary characters."""
    table = {}
    for code in (0x3000, *range(0xFF00, 0xFFF0)):
        kind, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        if kind in ("<wide>", "<narrow>"):
            table[code] = chr(int(plain, 16))
    return table
