"""Texts to letters: normalisation, case, and what counts as one character."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.characters import part_texts
from cleval_tm.rules import CLEvalRules

_FIRST_CLUSTER = 0x110000  # one past the last code point
_NO_LETTER = -1
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


class Texts(NamedTuple):
    """Letters of n texts, as integers that are equal exactly where the characters are."""

    letters: npt.NDArray[np.int32]
    """All texts' letters, and one more behind each text to part it from the next."""
    letter_start: npt.NDArray[np.int64]
    """(n + 1,) first letter of each text: text i has ``letter_start[i + 1] - letter_start[i] - 1`` of them."""
    is_hashes: npt.NDArray[np.bool_]
    """(n,) whether it is ``###``, the text of ignored words."""
    some_hashes: bool


def letters_of(texts: Sequence[str], rules: CLEvalRules) -> Texts:
    """The letters of transformed texts.

    Args:
        texts: n transformed texts.
        rules: tells whether a character is a code point or a grapheme cluster.

    Raises:
        TypeError: if a text is no str.
    """
    if rules.text_unit == "grapheme":
        return _parted(_clusters_of(texts), _NO_LETTER, len(texts))
    found = _joined(texts, "\n")
    if found.letter_start[-1] != len(found.letters):  # a text holds the separator
        used = set("".join(texts))
        found = _joined(
            texts, next(letter for letter in map(chr, range(sys.maxunicode)) if letter not in used)
        )
    return found


def _joined(texts: Sequence[str], separator: str) -> Texts:
    joined = separator.join(texts) + separator if texts else ""
    # A copy that can be written to: numba has another type for arrays that cannot.
    letters = np.frombuffer(bytearray(joined.encode("utf-32-le", "surrogatepass")), np.int32)
    return _parted(letters, ord(separator), len(texts))


def _parted(letters: npt.NDArray[np.int32], separator: int, n: int) -> Texts:
    letter_start = np.empty(n + 1, np.int64)
    is_hashes = np.empty(n, np.bool_)
    hashes = part_texts(letters, separator, ord("#"), letter_start, is_hashes)
    return Texts(letters, letter_start, is_hashes, hashes > 0)


def _clusters_of(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """The clusters of each text, and no letter behind it."""
    try:
        import regex
    except ImportError as error:
        raise ImportError(
            "text_unit='grapheme' needs the package `regex`: pip install 'cleval-tm[graphemes]'"
        ) from error
    split = regex.compile(r"\X").findall
    letters: list[int] = []
    for text in texts:
        letters += [
            ord(cluster)
            if len(cluster) == 1
            else _clusters.setdefault(cluster, _FIRST_CLUSTER + len(_clusters))
            for cluster in split(text)
        ]
        letters.append(_NO_LETTER)
    return np.array(letters, np.int32)


@cache
def _width_table() -> dict[int, str]:
    """Full-width and half-width forms to their ordinary characters."""
    table = {}
    for code in (0x3000, *range(0xFF00, 0xFFF0)):
        kind, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        if kind in ("<wide>", "<narrow>"):
            table[code] = chr(int(plain, 16))
    return table
