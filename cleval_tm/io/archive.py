"""The annotation files in a ZIP archive or a folder, as (name, bytes) pairs."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cleval_tm.io.problems import AnnotationError

MAX_BYTES = 512 * 2**20
"""Most bytes that a ZIP may unpack to, unless the caller raises it."""

_NO_ANNOTATION = ("__MACOSX", "Thumbs.db", "desktop.ini")
_File = TypeVar("_File")
# what zipfile raises on damaged archives: RuntimeError for encrypted ones, ValueError for broken names
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)
_STRIPPED = ("gt_", "res_", ".txt", ".json", ".jpg")


@dataclass
class Entry:
    """One annotation file: where it is, for messages, the image it belongs to, and its content."""

    place: str
    image: str
    content: bytes


@dataclass
class Source:
    """A ZIP archive or a folder of annotation files.

    Args:
        path: the ZIP or the folder.
        max_bytes: most bytes that the ZIP may unpack to.

    Attributes:
        skipped: names of files beside the ``.txt`` files, which were not read.
    """

    path: Path
    max_bytes: int = MAX_BYTES
    skipped: list[str] = field(default_factory=list)

    def entries(self) -> Iterator[Entry]:
        """Each annotation file with its content.

        Raises:
            FileNotFoundError: if the path does not exist.
            AnnotationError: if it is neither a folder nor a ZIP that can be read, unpacks to more than
                ``max_bytes``, holds no annotation file, or holds two for one image.
        """
        path = require(self.path)
        walk = self._folder(path) if path.is_dir() else self._zip(path)
        places: dict[str, str] = {}
        for name, place, content in walk:
            image = image_key(name)
            if image in places:
                raise AnnotationError(
                    f"{place}: expected one file an image but {places[image]} is of image {image!r} too"
                )
            places[image] = place
            yield Entry(place, image, content)
        if not places:
            raise AnnotationError(
                f"{path}: expected text files, one an image, but found {_listed(self.skipped) or 'none'}"
            )

    def _folder(self, path: Path) -> Iterator[tuple[str, str, bytes]]:
        found = []
        for folder, subfolders, files in os.walk(path):
            subfolders[:] = [name for name in subfolders if not _hidden(name)]
            found += [(Path(folder) / name) for name in files if not _hidden(name)]
        found.sort(key=lambda file: _natural(file.relative_to(path).as_posix()))
        for file in self._texts({file.relative_to(path).as_posix(): file for file in found}):
            yield file.name, str(file), file.read_bytes()

    def _zip(self, path: Path) -> Iterator[tuple[str, str, bytes]]:
        with path.open("rb") as file:
            try:
                archive = zipfile.ZipFile(file)
            except _UNREADABLE as error:
                raise AnnotationError(
                    f"{path}: expected a folder or a ZIP of text files, one an image, but it is no readable "
                    f"ZIP ({error})"
                ) from error
            members = {
                member.filename: member
                for member in archive.infolist()
                if not member.is_dir() and not any(_hidden(part) for part in member.filename.split("/"))
            }
            wanted = self._texts(members)
            self._check_size(wanted)
            for member in wanted:
                place = f"{path}: {member.filename}"
                try:
                    content = archive.read(member)
                except _UNREADABLE as error:
                    raise AnnotationError(f"{place}: expected a readable entry but got: {error}") from error
                yield member.filename.rpartition("/")[2], place, content

    def _texts(self, found: dict[str, _File]) -> list[_File]:
        """The ``.txt`` files where there are any, else every file."""
        texts = [file for name, file in found.items() if name.lower().endswith(".txt")]
        if texts:
            self.skipped += [name for name in found if not name.lower().endswith(".txt")]
            return texts
        return list(found.values())

    def _check_size(self, members: list[zipfile.ZipInfo]) -> None:
        size = sum(member.file_size for member in members)
        if size > self.max_bytes:
            raise AnnotationError(
                f"{self.path}: expected a ZIP that unpacks to at most {self.max_bytes:,} bytes but it would "
                f"give {size:,}; if that is meant, raise the limit (`max_bytes`, or --max-unpacked-mb)"
            )


def require(path: str | os.PathLike[str]) -> Path:
    """``path``, if it exists.

    Raises:
        FileNotFoundError: if it does not; the message names it.
    """
    found = Path(path)
    if not found.exists():
        raise FileNotFoundError(f"{found}: no such file or folder")
    return found


def image_key(name: str) -> str:
    """The image that a file called ``name`` belongs to.

    Example:
        >>> image_key("gt_img_12.txt"), image_key("res_img_12.jpg.txt")
        ('img_12', 'img_12')
    """
    for part in _STRIPPED:
        name = name.replace(part, "")
    return name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _NO_ANNOTATION


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders img_2 before img_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
