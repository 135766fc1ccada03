"""Texts to letters: normalisation, case, and what counts as one character."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from cleval_tm.rules import CLEvalRules

Letters = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

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


def letters_of(texts: Sequence[str], rules: CLEvalRules) -> tuple[Letters, Ints]:
    """Letters as integers that are equal exactly where the characters are.

    Args:
        texts: n transformed texts.
        rules: tells whether a character is a code point or a grapheme cluster.

    Returns:
        (letters, letter_start): all texts' letters, int32, one more behind each text to part it from the next;
        (n + 1,) int64, each text's first letter: text i has ``letter_start[i + 1] - letter_start[i] - 1`` of them.

    Raises:
        TypeError: if a text is no str.
    """
    if rules.text_unit == "grapheme":
        return _clusters_of(texts)
    for separator in _separators(texts):
        joined = separator.join(texts) + separator if texts else ""
        # A copy that can be written to: numba has another type for arrays that cannot.
        letters = np.frombuffer(bytearray(joined.encode("utf-32-le", "surrogatepass")), np.int32)
        ends = (letters == ord(separator)).nonzero()[0]
        if len(ends) == len(texts):
            break
    letter_start = np.zeros(len(texts) + 1, np.int64)
    np.add(ends, 1, out=letter_start[1:])
    return letters, letter_start


def _separators(texts: Sequence[str]) -> Iterator[str]:
    """Characters to part texts by: one that few texts hold, then one that none of these does."""
    yield "\n"
    used = set("".join(texts))
    yield next(letter for letter in map(chr, range(sys.maxunicode)) if letter not in used)


def spelled(text: str, letters: Letters, letter_start: Ints) -> npt.NDArray[np.bool_]:
    """Which of n texts are ``text``, (n,) bool; for the rest see :func:`letters_of`."""
    found = np.zeros(len(letter_start) - 1, np.bool_)
    if (letters == ord(text[0])).any():
        alike = np.flatnonzero(np.diff(letter_start) == len(text) + 1)
        for place, letter in enumerate(text):
            alike = alike[letters[letter_start[alike] + place] == ord(letter)]
        found[alike] = True
    return found


def _clusters_of(texts: Sequence[str]) -> tuple[Letters, Ints]:
    try:
        import regex
    except ImportError as error:
        raise ImportError(
            "text_unit='grapheme' needs the package `regex`: pip install 'cleval-tm[graphemes]'"
        ) from error
    split = regex.compile(r"\X").findall
    letters: list[int] = []
    letter_start = np.zeros(len(texts) + 1, np.int64)
    for i, text in enumerate(texts):
        letters += [
            ord(cluster)
            if len(cluster) == 1
            else _clusters.setdefault(cluster, _FIRST_CLUSTER + len(_clusters))
            for cluster in split(text)
        ]
        letters.append(_NO_LETTER)
        letter_start[i + 1] = len(letters)
    return np.array(letters, np.int32), letter_start


@cache
def _width_table() -> dict[int, str]:
    """Full-width and half-width forms to their ordinary characters."""
    table = {}
    for code in (0x3000, *range(0xFF00, 0xFFF0)):
        kind, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        if kind in ("<wide>", "<narrow>"):
            table[code] = chr(int(plain, 16))
    return table
