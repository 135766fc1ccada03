"""Letters of texts, read where Python keeps them: joining and encoding a batch of texts took twice as long.

Lists are handed over by their addresses (``id``), and whoever calls holds on to them. What is asked of Python here
belongs to its stable ABI.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from cleval_tm.kernels._jit import Bools, Ints, Letters, inner, kernel_on_objects
from cleval_tm.kernels._machine import prefetch, python_api
from cleval_tm.kernels.candidates import longer

HASH = ord("#")
CACHE_LINE = 64

list_item = python_api("PyList_GetItem", types.intp, types.intp, types.intp)
text_length = python_api("PyUnicode_GetLength", types.intp, types.intp)
copy_letters = python_api("PyUnicode_AsUCS4", types.intp, types.intp, types.intp, types.intp, types.intc)
clear_error = python_api("PyErr_Clear", types.void)


@inner
def call_up(texts: int, n: int) -> None:
    """Let a list's texts, which lie anywhere in memory, come while another list is read; long ones in part."""
    for at in range(n):
        text = list_item(texts, at)
        prefetch(text)
        prefetch(text + CACHE_LINE)


@kernel_on_objects
def read_texts(
    lists: Ints, list_start: Ints, letter_start: Ints, is_hashes: Bools
) -> tuple[Letters, int, int]:
    """Read the texts of n lists.

    Args:
        lists: (n,) int64 addresses of lists of str.
        list_start: (n + 1,) int64, how many texts there are before each list, and in all.
        letter_start: (texts + 1,) int64, filled: the first letter of each text.
        is_hashes: (texts,) bool, filled: whether the text is three hash signs, as that of an ignored word.

    Returns:
        (letters, read, hashes): int32, a 0 behind each text; how many texts came before the first that is no str; how
        many are three hash signs.
    """
    letters = np.empty(8 * len(is_hashes) + 1, np.int32)  # enough for most: words have about 5 letters
    letter_start[0] = 0
    read = 0
    hashes = 0
    if len(lists) > 0:
        call_up(lists[0], list_start[1])
    for i in range(len(lists)):
        if i + 1 < len(lists):
            call_up(lists[i + 1], list_start[i + 2] - list_start[i + 1])
        # All lengths first: they too are waited for together.
        first = read
        for at in range(list_start[i + 1] - list_start[i]):
            text = list_item(lists[i], at)
            length = text_length(text) if text != 0 else -1
            if length < 0:
                clear_error()
                return letters, read, hashes
            read += 1
            letter_start[read] = letter_start[read - 1] + length + 1
        if letter_start[read] > len(letters):
            letters = longer(letters, letter_start[read])
        for at in range(first, read):
            start = letter_start[at]
            room = letter_start[at + 1] - start
            copy_letters(list_item(lists[i], at - first), letters.ctypes.data + 4 * start, room, 1)
            is_hashes[at] = room == 4 and (
                letters[start] == HASH and letters[start + 1] == HASH and letters[start + 2] == HASH
            )
            hashes += is_hashes[at]
    return letters[: letter_start[read]], read, hashes
