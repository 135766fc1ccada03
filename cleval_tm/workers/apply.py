"""Writing the chosen number of workers into a YAML file, and changing not a byte besides."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

__all__ = ["YamlEdit", "apply_num_workers", "section_keys", "worker_keys"]

Value = int | bool | None

# What torch's DataLoader refuses beside `num_workers: 0`, and what it takes instead.
_ONLY_WITH_WORKERS: dict[str, Value] = {
    "prefetch_factor": None,
    "persistent_workers": False,
    "multiprocessing_context": None,
    "timeout": 0,
}
_BOM = "\ufeff"


@dataclass(frozen=True)
class YamlEdit:
    """What :func:`apply_num_workers` changed, or with ``dry_run`` would change.

    Args:
        path: The file.
        diff: The change as a unified diff; empty where the file held the values already.
        notes: Further changes that 0 workers made necessary, and what remains to be looked at by hand.
    """

    path: Path
    diff: str
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the file's content differs."""
        return bool(self.diff)


def apply_num_workers(
    yaml_path: str | os.PathLike[str], values: Mapping[str, Value], *, dry_run: bool = False
) -> YamlEdit:
    """Sets values in a YAML file and leaves every other byte as it is.

    Comments, order, quoting, indentation, line ends and ``${...}`` stay. The file is replaced atomically,
    with its permissions; where the values are there already it is not touched. With 0 workers, settings of
    the same loader that ``DataLoader`` then refuses (``prefetch_factor``, ``persistent_workers``,
    ``multiprocessing_context``, ``timeout``) are set to what it takes.

    Args:
        yaml_path: The file; one YAML document.
        values: What to set by dotted key, such as ``{"train_dataloader.num_workers": 4}``. A key ending in
            ``num_workers`` takes an int of 0 or more; others (``prefetch_factor``, ``persistent_workers``)
            also None or a bool.
        dry_run: Write nothing.

    Returns:
        The diff, and what else was done.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: The file has no such key; the message names those that it has.
        ValueError: The file is no YAML, or what stands in that place is no plain number: a list, a section,
            an interpolation, an alias or an anchor. Nothing is written.
        TypeError: A value is of another type than it may be.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "default.yaml"
        >>> text = "train_dataloader:\\n  num_workers: 12  # by guess\\n  batch_size: ${data.batch_size}\\n"
        >>> _ = path.write_text(text)
        >>> edit = apply_num_workers(path, {"train_dataloader.num_workers": 4})
        >>> print(path.read_text(), end="")
        train_dataloader:
          num_workers: 4  # by guess
          batch_size: ${data.batch_size}
        >>> apply_num_workers(path, {"train_dataloader.num_workers": 4}).changed
        False
    """
    path = Path(yaml_path)
    for key, value in values.items():
        _check_value(key, value)
    text = _read(path)
    root = _compose(path, text)
    edits: dict[int, tuple[int, str]] = {}
    notes: list[str] = []
    for key, value in values.items():
        mapping, node = _find(path, root, key)
        _edit(path, text, key, node, value, edits)
        if key.rpartition(".")[2] == "num_workers" and value == 0:
            notes += _without_workers(path, text, key, mapping, values, edits)
    new = text
    for start, (end, replacement) in sorted(edits.items(), reverse=True):
        new = new[:start] + replacement + new[end:]
    if new != text:
        _compose(path, new)  # still YAML, or nothing is written
        if not dry_run:
            _replace(path, new)
    return YamlEdit(path, _diff(path, text, new), tuple(notes))


def worker_keys(yaml_path: str | os.PathLike[str]) -> dict[str, str]:
    """The dotted keys of a YAML file that end in ``num_workers``, with their values as written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no YAML.
    """
    path = Path(yaml_path)
    found = {}
    for key, node in _walk(_compose(path, _read(path)), ""):
        if key.rpartition(".")[2] == "num_workers":
            found[key] = node.value if isinstance(node, ScalarNode) else type(node).__name__
    return found


def section_keys(yaml_path: str | os.PathLike[str], section: str) -> set[str]:
    """The keys of one section of a YAML file (``""``: its top level), those of a merge aside.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no YAML.
    """
    path = Path(yaml_path)
    prefix = f"{section}." if section else ""
    keys = (key for key, _ in _walk(_compose(path, _read(path)), ""))
    inside = (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
    return {key for key in inside if "." not in key}


def _check_value(key: str, value: Any) -> None:
    if key.rpartition(".")[2] == "num_workers":
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Expected the value for `{key}` to be an int but got {value!r}")
        if value < 0:
            raise ValueError(f"Expected the value for `{key}` to be 0 or more but got {value}")
    elif value is not None and not isinstance(value, int):
        raise TypeError(f"Expected the value for `{key}` to be an int, a bool or None but got {value!r}")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected `{path}` to be UTF-8 text but got {error}") from None


def _compose(path: Path, text: str) -> Node | None:
    try:
        root: Node | None = YAML(typ="rt", pure=True).compose(text.removeprefix(_BOM))
    except YAMLError as error:
        raise ValueError(f"Expected `{path}` to be one YAML document but got an error: {error}") from None
    return root


def _walk(node: Node | None, prefix: str) -> Iterator[tuple[str, Node]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else str(key.value)
            yield name, value
            if not _is_alias(key, value):
                yield from _walk(value, name)


def _is_alias(key: Node, value: Node) -> bool:
    return bool(value.start_mark.index < key.end_mark.index)  # an alias is the node it points back at


def _find(path: Path, root: Node | None, dotted: str) -> tuple[MappingNode, ScalarNode]:
    """The mapping that holds the last key, and the value there."""
    parts = dotted.split(".")
    node = root
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the file"
        if not isinstance(node, MappingNode):
            raise ValueError(
                f"Expected `{here}` in `{path}` to be a section with keys but got {_described(node)}"
            )
        entries = [(k, v) for k, v in node.value if k.value == part]
        if not entries:
            raise KeyError(_missing(path, root, node, dotted, part, here))
        if len(entries) > 1:
            raise ValueError(f"Expected {here} of `{path}` to have one `{part}` but it has {len(entries)}")
        entry = entries[0]
        if _is_alias(*entry):
            raise ValueError(
                f"Expected `{'.'.join(parts[: depth + 1])}` in `{path}` to be written out but got an "
                f"alias (*) of line {entry[1].start_mark.line + 1}: change it there"
            )
        mapping, node = node, entry[1]
    if not isinstance(node, ScalarNode):
        raise ValueError(f"Expected `{dotted}` in `{path}` to be a number but got {_described(node)}")
    return mapping, node


def _missing(path: Path, root: Node | None, node: MappingNode, dotted: str, part: str, here: str) -> str:
    merged = " (it may come from the merge `<<` there)" if any(k.value == "<<" for k, _ in node.value) else ""
    known = [key for key, _ in _walk(root, "") if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    hint = f"; the file has {', '.join(known)}" if known else ""
    return f"Expected `{path}` to have the key `{dotted}`, but {here} has no `{part}`{merged}{hint}"


def _described(node: Node | None) -> str:
    if isinstance(node, SequenceNode):
        return f"a list (line {node.start_mark.line + 1})"
    if isinstance(node, MappingNode):
        return f"a section (line {node.start_mark.line + 1})"
    if isinstance(node, ScalarNode):
        return f"{node.value!r} (line {node.start_mark.line + 1})"
    return "nothing: the file is empty"


def _edit(
    path: Path, text: str, key: str, node: ScalarNode, value: Value, edits: dict[int, tuple[int, str]]
) -> None:
    """Notes the replacement of one scalar, if it changes anything."""
    shift = len(_BOM) if text.startswith(_BOM) else 0
    start, end = node.start_mark.index + shift, node.end_mark.index + shift
    written = text[start:end]
    where = f"`{key}` in `{path}` (line {node.start_mark.line + 1})"
    if "${" in written:
        raise ValueError(
            f"Expected {where} to be a number but got the interpolation {written}: change what it names"
        )
    if written[:1] in ("&", "!"):
        raise ValueError(f"Expected {where} to be a bare number but got {written!r}: others may refer to it")
    quote = written[:1] if written[:1] in ("'", '"') else ""
    if not re.fullmatch(r"[-+]?\w+", node.value) or written != f"{quote}{node.value}{quote}":
        raise ValueError(f"Expected {where} to be a number but got {written!r}")
    if key.rpartition(".")[2] == "num_workers" and not re.fullmatch(r"[-+]?\d+|null|None", node.value):
        raise ValueError(f"Expected {where} to be a number but got {written!r}")
    wanted = "null" if value is None else str(value).lower()
    if node.value.lower() != wanted:
        edits[start] = (end, f"{quote}{wanted}{quote}")


def _without_workers(
    path: Path,
    text: str,
    key: str,
    mapping: MappingNode,
    values: Mapping[str, Value],
    edits: dict[int, tuple[int, str]],
) -> list[str]:
    """Sets what DataLoader refuses without workers; what was done, in words."""
    prefix = key.rpartition(".")[0]
    notes = []
    for name_node, node in mapping.value:
        name = name_node.value
        dotted = f"{prefix}.{name}" if prefix else name
        if name not in _ONLY_WITH_WORKERS or dotted in values:
            continue
        accepted = _ONLY_WITH_WORKERS[name]
        if isinstance(node, ScalarNode) and node.value.lower() in _refused_not(accepted):
            continue
        wanted = "null" if accepted is None else str(accepted).lower()
        try:
            if not isinstance(node, ScalarNode) or _is_alias(name_node, node):
                raise ValueError
            _edit(path, text, dotted, node, accepted, edits)
        except ValueError:
            notes.append(f"`{dotted}` is no plain value and was left: with 0 workers it must be {wanted}")
            continue
        notes.append(f"`{dotted}` set from {node.value} to {wanted}: DataLoader refuses it with 0 workers")
    return notes


def _refused_not(accepted: Value) -> set[str]:
    """Spellings of what DataLoader takes without workers."""
    if accepted is None:
        return {"", "~", "null"}
    return {"false", "no", "off", "0", "0.0"}


def _diff(path: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path.name}", f"b/{path.name}"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _replace(path: Path, text: str) -> None:
    target = Path(os.path.realpath(path))  # a link stays a link
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
