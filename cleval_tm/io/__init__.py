"""Annotation files: ICDAR-style ZIPs and folders, annotation JSON, submission CSV.

Every reader gives ``dict[image id, image dict]``, :func:`pair` brings two of them into the order in which
:func:`cleval_tm.evaluate` wants them. Nothing here knows torch, shapely or numba.
"""

from cleval_tm.io.archive import MAX_BYTES, image_key
from cleval_tm.io.formats import detect_format
from cleval_tm.io.icdar import BOX_TYPES, read_icdar
from cleval_tm.io.pairing import image_sizes, pair
from cleval_tm.io.problems import AnnotationError
from cleval_tm.io.single_file import read_csv, read_json

__all__ = [
    "BOX_TYPES",
    "MAX_BYTES",
    "AnnotationError",
    "detect_format",
    "image_key",
    "image_sizes",
    "pair",
    "read_csv",
    "read_icdar",
    "read_json",
]
