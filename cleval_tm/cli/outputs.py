"""Output files, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Makes sure, before any long work, that every output can be written.

    Args:
        outputs: paths to write, ``None`` where there is none.
        inputs: paths that must stay as they are.

    Raises:
        OSError: if an output's folder is missing or closed, or the output is a folder.
        ValueError: if two outputs, or an output and an input, are one file.
    """
    taken = {path.resolve(): "an input" for path in inputs if path is not None}
    for path in outputs:
        if path is None or _is_device(path):
            continue
        if path.resolve() in taken:
            raise ValueError(f"Expected an output file of its own but {path} is {taken[path.resolve()]} too")
        taken[path.resolve()] = "another output"
        if path.is_dir():
            raise IsADirectoryError(f"{path}: expected a file to write to but it is a folder")
        if not path.resolve().parent.is_dir():
            raise FileNotFoundError(
                f"{path}: expected to write into {path.parent} but there is no such folder"
            )
        try:
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
        except OSError as error:
            raise PermissionError(f"{path}: cannot write into its folder ({error.strerror})") from error


def write_whole(contents: dict[Path, str | bytes]) -> None:
    """Writes files so that each is there whole or, if anything fails, as it was before.

    Each goes to a temporary file in its own folder first; once all are written, they take their names.
    """
    ready: list[tuple[str, Path]] = []
    try:
        for path, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            if _is_device(path):
                path.write_bytes(data)
                continue
            target = path.resolve()
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            ready.append((temporary, target))
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, _mode_of(target))
        for temporary, target in ready:
            os.replace(temporary, target)
    finally:
        for temporary, _ in ready:
            Path(temporary).unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """Whether ``path`` is there and no ordinary file: ``/dev/stdout``, a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _mode_of(target: Path) -> int:
    """The permissions that the file has, or that a new one gets."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
