"""EXIF orientation: from the frame in which an image is stored to the frame in which it is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TURNS = (2, 3, 4, 5, 6, 7, 8)
"""The EXIF orientations that move a point; any other leaves it where it is."""


def to_displayed(points: npt.NDArray[Any], orientation: int, width: int, height: int) -> npt.NDArray[Any]:
    """Points of the stored image in the displayed one.

    Args:
        points: (..., 2) as x, y in pixels of the stored image.
        orientation: EXIF orientation; anything but 2 to 8 changes nothing.
        width, height: of the stored image, in pixels.

    Returns:
        (..., 2) as x, y in pixels of the displayed image.

    Example:
        >>> import numpy as np
        >>> from cleval_tm.lightning.orientation import to_displayed
        >>> to_displayed(np.array([[0.0, 0.0], [3.0, 1.0]]), 6, width=4, height=2).tolist()
        [[1.0, 0.0], [0.0, 3.0]]
    """
    x, y = points[..., 0], points[..., 1]
    right, bottom = width - 1 - x, height - 1 - y
    moved = {
        2: (right, y),
        3: (right, bottom),
        4: (x, bottom),
        5: (y, x),
        6: (bottom, x),
        7: (bottom, right),
        8: (y, right),
    }
    return np.stack(moved[orientation], axis=-1) if orientation in moved else points
