"""Chrome trace files as a stream of events; standard library only."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
_LARGEST_VALUE = 1 << 26  # no event is this large: past it, the file is broken rather than cut by a chunk
_SPACE = " \t\r\n"


class _Scanner:
    """Decodes one JSON value after the other from a text stream, holding little more than one chunk."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._decode = json.JSONDecoder(strict=False).raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def _fill(self, size: int) -> None:
        more = self._stream.read(size)
        self._ended = not more
        self._text = self._text[self._at :] + more
        self._at = 0

    def peek(self) -> str:
        """The next character that is no space, without consuming it; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._fill(_CHUNK)

    def take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise self.error(f"{expected!r}", repr(found) if found else "the end of the file")
        self._at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text) or self._ended:  # a number may go on in the next chunk
                    self._at = end
                    return value
            except json.JSONDecodeError as broken:
                if self._ended or len(self._text) - self._at > _LARGEST_VALUE:
                    raise self.error("a JSON value", str(broken)) from None
            self._fill(max(_CHUNK, len(self._text) - self._at))

    def error(self, expected: str, found: str) -> ValueError:
        return ValueError(
            f"Expected `{self._path}` to be a Chrome trace (JSON), but where {expected} should stand "
            f"there is {found}. Was the run that wrote it cut off?"
        )


def _events(scanner: _Scanner) -> Iterator[dict[str, Any]]:
    scanner.take("[")
    while scanner.peek() != "]":
        event = scanner.value()
        if isinstance(event, dict):
            yield event
        if scanner.peek() != ",":
            break
        scanner.take(",")  # Chrome's array form allows one after the last event
    scanner.take("]")


def read_events(path: str | Path) -> Iterator[dict[str, Any]]:
    """The events of a Chrome trace, one at a time; the file is never in memory as a whole.

    Args:
        path: A ``.json`` or ``.json.gz`` file (told apart by content, not by name), in the object form that
            torch.profiler writes (``{"traceEvents": [...]}``) or in Chrome's array form (``[...]``).

    Yields:
        Each event as a dict, in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no Chrome trace, or is cut off.

    Example:
        >>> import json, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "trace.json"
        >>> _ = path.write_text(json.dumps({"traceEvents": [{"ph": "X", "name": "aten::mul"}]}))
        >>> [event["name"] for event in read_events(path)]
        ['aten::mul']

    Source:
        Trace Event Format, Google (the JSON object format and the JSON array format).
    """
    path = Path(path)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if zipped else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as stream:
        scanner = _Scanner(stream, path)
        try:
            yield from _top_level(scanner)
        except (EOFError, gzip.BadGzipFile) as cut:
            raise scanner.error("more compressed data", str(cut)) from None


def _top_level(scanner: _Scanner) -> Iterator[dict[str, Any]]:
    if scanner.peek() == "[":
        yield from _events(scanner)
        return
    scanner.take("{")
    found = False
    while scanner.peek() != "}":
        key = scanner.value()
        scanner.take(":")
        if key == "traceEvents" and scanner.peek() == "[":
            found = True
            yield from _events(scanner)
        else:
            scanner.value()
        if scanner.peek() != ",":
            break
        scanner.take(",")
    scanner.take("}")
    if not found:
        raise scanner.error("a list `traceEvents`", "none")
