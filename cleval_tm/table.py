"""The rows of the metric's table: under which key an image's counts are kept, and which rows count."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from torchmetrics.utilities import rank_zero_warn

from cleval_tm.counts import IntTable

NO_ID = -(2**63)
"""Key of an image without an id. Such images all count."""


@lru_cache(maxsize=2**14, typed=True)  # every epoch brings the same images
def image_key(image_id: str | int | None) -> int:
    """The number under which an image's row is kept.

    Args:
        image_id: the image's id (``"7"`` and ``7`` are two ids), or ``None`` for an image without one.

    Returns:
        :data:`NO_ID` without an id, else eight bytes of its blake2b as a signed integer: the same in every
        process, and never :data:`NO_ID`.

    Example:
        >>> from cleval_tm.table import image_key
        >>> image_key("img_1") == image_key("img_1"), image_key("7") == image_key(7)
        (True, False)
    """
    if image_id is None:
        return NO_ID
    text = f"{'s' if isinstance(image_id, str) else 'i'}{image_id}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return max(int.from_bytes(digest, "big", signed=True), NO_ID + 1)


def distinct_rows(table: IntTable) -> IntTable:
    """``table`` with one row a key; of differing rows with one key the smallest counts, with a warning.

    Args:
        table: (n, columns) int64, keys as :func:`image_key` gives them in the first column.

    Returns:
        (m, columns) int64: every row without an id, and one row of each id. Which rows these are does not
        depend on the order of ``table``.
    """
    named = table[table[:, 0] != NO_ID, 0]
    if len(np.unique(named)) == len(named):
        return table
    table = table[np.lexsort(table.T[::-1])]
    repeats = (table[1:, 0] == table[:-1, 0]) & (table[1:, 0] != NO_ID)
    differing = table[1:, 0][repeats & (table[1:] != table[:-1]).any(axis=1)]
    if len(differing):
        rank_zero_warn(
            f"{len(np.unique(differing))} `image_id`s came more than once with different counts; one row of "
            "each counts. Predictions that differ between ranks do this, or an id that stands for two images."
        )
    return table[np.concatenate(([True], ~repeats))]
