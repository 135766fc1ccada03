"""What is wrong with an annotation file, and where: collected first, then raised or skipped with a count."""

from __future__ import annotations

import warnings


class AnnotationError(ValueError):
    """An annotation file cannot be read as asked; the message names the file, the line or the image."""


class BadLine(Exception):
    """One line (or word) cannot be read; its message says what was expected and what came."""


def settle(problems: list[str], lenient: bool, unit: str = "line") -> None:
    """Raises on the first problem, or warns how many were skipped.

    Args:
        problems: one message a bad line, each with its place.
        lenient: whether bad lines were skipped instead of refused.
        unit: what one problem concerns, for the message.

    Raises:
        AnnotationError: if there is a problem and ``lenient`` is false.
    """
    if not problems:
        return
    others = len(problems) - 1
    if lenient:
        warnings.warn(f"{_many(len(problems), unit)} skipped; the first: {problems[0]}", stacklevel=3)
        return
    more = f" (and {_many(others, f'more bad {unit}')})" if others else ""
    raise AnnotationError(problems[0] + more)


def shorten(text: str, most: int = 80) -> str:
    """``text`` as a literal, cut where it is long."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def _many(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"
