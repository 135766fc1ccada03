"""Writing num_workers into YAML: that value changes and not a byte besides."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

yaml = pytest.importorskip("ruamel.yaml")

from cleval_tm.workers import apply_num_workers  # noqa: E402
from cleval_tm.workers.apply import section_keys, worker_keys  # noqa: E402

KEY = "train_dataloader.num_workers"
CONFIG = """\
# @package _global_   글자
defaults:   [ _self_ , {other: x} ]

train_dataloader:      # two   spaces
    batch_size:   "${data.batch_size}"
    num_workers:   12      # by guess\t
    prefetch_factor: 4 # per worker
    persistent_workers:    True
    root: '${oc.env:DATA,"/tmp"}'

val_dataloader: {num_workers: 12, "batch_size": "${data.batch_size}", sizes: [1,   2]}

folded: >
    num_workers: 12
       stays text
...
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "default.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_one_value_changes_and_no_other_byte(config: Path) -> None:
    edit = apply_num_workers(config, {KEY: 4})
    expected = CONFIG.replace("num_workers:   12      # by guess", "num_workers:   4      # by guess")
    assert config.read_bytes() == expected.encode()
    assert edit.changed
    assert edit.notes == ()
    changed = [line for line in edit.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-    num_workers:   12      # by guess\t", "+    num_workers:   4      # by guess\t"]


def test_flow_mapping_and_several_keys_at_once(config: Path) -> None:
    apply_num_workers(
        config, {KEY: 8, "val_dataloader.num_workers": 2, "train_dataloader.prefetch_factor": 2}
    )
    text = config.read_text(encoding="utf-8")
    assert "num_workers:   8      # by guess" in text
    assert '{num_workers: 2, "batch_size": "${data.batch_size}", sizes: [1,   2]}' in text
    assert "prefetch_factor: 2 # per worker" in text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_line_ends_and_byte_order_mark_stay(tmp_path: Path, newline: str, start: str, end: str) -> None:
    path = tmp_path / "c.yaml"
    before = start + newline.join(["# 한", "loader:", "  num_workers: 12"]) + end
    path.write_bytes(before.encode())
    edit = apply_num_workers(path, {"loader.num_workers": 3})
    assert path.read_bytes() == before.replace("12", "3").encode()
    assert ("No newline at end of file" in edit.diff) == (end == "")


def test_quotes_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("""a: {num_workers: '12'}\nb: {num_workers: "12"}\n""")
    apply_num_workers(path, {"a.num_workers": 1, "b.num_workers": 2})
    assert path.read_text() == """a: {num_workers: '1'}\nb: {num_workers: "2"}\n"""


def test_idempotent_and_untouched(config: Path) -> None:
    apply_num_workers(config, {KEY: 4})
    before = config.stat()
    again = apply_num_workers(config, {KEY: 4})
    assert (again.changed, again.diff) == (False, "")
    assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_dry_run_writes_nothing(config: Path) -> None:
    edit = apply_num_workers(config, {KEY: 4}, dry_run=True)
    assert "+    num_workers:   4" in edit.diff
    assert config.read_text(encoding="utf-8") == CONFIG
    assert list(config.parent.iterdir()) == [config]


def test_permissions_and_links_stay(config: Path) -> None:
    config.chmod(0o640)
    link = config.with_name("link.yaml")
    link.symlink_to(config)
    apply_num_workers(link, {KEY: 4})
    assert link.is_symlink()
    assert "num_workers:   4" in config.read_text(encoding="utf-8")
    assert stat.S_IMODE(config.stat().st_mode) == 0o640


def test_a_failing_write_leaves_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        apply_num_workers(config, {KEY: 4})
    assert config.read_text(encoding="utf-8") == CONFIG
    assert list(config.parent.iterdir()) == [config]


def test_without_workers_what_dataloader_refuses_goes_too(config: Path) -> None:
    edit = apply_num_workers(config, {KEY: 0})
    loader = yaml.YAML(typ="safe").load(config.read_text(encoding="utf-8"))["train_dataloader"]
    options = {name: loader[name] for name in ("num_workers", "prefetch_factor", "persistent_workers")}
    assert options == {"num_workers": 0, "prefetch_factor": None, "persistent_workers": False}
    assert next(iter(DataLoader([torch.zeros(1)], **options))).shape == (1, 1)
    assert len(edit.notes) == 2
    assert "`train_dataloader.prefetch_factor` set from 4 to null" in edit.notes[0]
    assert "# per worker" in config.read_text(encoding="utf-8")


def test_every_setting_that_is_reset_is_one_that_dataloader_refuses() -> None:
    refused = {
        "prefetch_factor": 4,
        "persistent_workers": True,
        "multiprocessing_context": "fork",
        "timeout": 30,
    }
    accepted = {
        "prefetch_factor": None,
        "persistent_workers": False,
        "multiprocessing_context": None,
        "timeout": 0,
    }
    for name in refused:
        with pytest.raises((ValueError, AssertionError)):
            next(iter(DataLoader([torch.zeros(1)], num_workers=0, **{name: refused[name]})))
        next(iter(DataLoader([torch.zeros(1)], num_workers=0, **{name: accepted[name]})))


def test_without_workers_an_interpolation_is_left_and_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("num_workers: 2\nprefetch_factor: ${prefetch}\ntimeout: 0\n")
    edit = apply_num_workers(path, {"num_workers": 0})
    assert path.read_text() == "num_workers: 0\nprefetch_factor: ${prefetch}\ntimeout: 0\n"
    assert edit.notes == ("`prefetch_factor` is no plain value and was left: with 0 workers it must be null",)


@pytest.mark.parametrize(
    ("text", "key", "error", "message"),
    [
        ("a: {num_workers: 1}", "b.num_workers", KeyError, "the file has no `b`; the file has a.num_workers"),
        ("a: {workers: 1}", "a.num_workers", KeyError, "a has no `num_workers`"),
        ("d: &d {num_workers: 1}\na: {<<: *d}", "a.num_workers", KeyError, "may come from the merge"),
        ("a: {num_workers: [1, 2]}", "a.num_workers", ValueError, "to be a number but got a list"),
        (
            "a:\n- num_workers: 1",
            "a.num_workers",
            ValueError,
            "`a` .* to be a section with keys but got a list",
        ),
        ("a: {num_workers: {b: 1}}", "a.num_workers", ValueError, "got a section"),
        ("a: {num_workers: '${n}'}", "a.num_workers", ValueError, r"interpolation '\$\{n\}'"),
        ("a:\n  num_workers: ${n}", "a.num_workers", ValueError, r"line 2.*interpolation \$\{n\}"),
        ("a: {num_workers: auto}", "a.num_workers", ValueError, "number but got 'auto'"),
        ("a: {num_workers: }", "a.num_workers", ValueError, "number but got ''"),
        ("a: {num_workers: &n 1}", "a.num_workers", ValueError, "bare number but got '&n 1'"),
        ("n: &n 1\na: {num_workers: *n}", "a.num_workers", ValueError, "got an alias"),
        ("a: 1\na: 2", "a", ValueError, "to have one `a` but it has 2"),
        ("a: 1\n---\nb: 2", "a", ValueError, "one YAML document"),
        ("a: {b: 1", "a.b", ValueError, "one YAML document"),
        ("", "a.num_workers", ValueError, "the file is empty"),
        ("a: 3", "a.num_workers", ValueError, "`a` .* to be a section"),
    ],
)
def test_errors_name_the_place_and_leave_the_file(
    tmp_path: Path, text: str, key: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        apply_num_workers(path, {key: 4})
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_one_wrong_key_of_two_changes_nothing(config: Path) -> None:
    with pytest.raises(KeyError, match="nowhere"):
        apply_num_workers(config, {KEY: 4, "nowhere.num_workers": 4})
    assert config.read_text(encoding="utf-8") == CONFIG


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (KEY, -1, ValueError),
        (KEY, True, TypeError),
        (KEY, "4", TypeError),
        (KEY, None, TypeError),
        ("a.b", 1.5, TypeError),
    ],
)
def test_values_are_checked(config: Path, key: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected the value for"):
        apply_num_workers(config, {key: value})  # type: ignore[dict-item]


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        apply_num_workers(tmp_path / "none.yaml", {KEY: 1})
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        apply_num_workers(tmp_path / "b.yaml", {KEY: 1})


def test_keys_are_found(config: Path) -> None:
    assert worker_keys(config) == {KEY: "12", "val_dataloader.num_workers": "12"}
    assert section_keys(config, "val_dataloader") == {"num_workers", "batch_size", "sizes"}


_comment = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20)


@given(
    old=st.integers(0, 999),
    new=st.integers(0, 999),
    spaces=st.integers(1, 5),
    indent=st.integers(1, 6),
    comment=_comment,
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_any_file_of_this_form_changes_in_that_place_alone(
    tmp_path_factory: pytest.TempPathFactory,
    old: int,
    new: int,
    spaces: int,
    indent: int,
    comment: str,
    newline: str,
) -> None:
    inside = " " * indent
    head = f"# {comment}{newline}a:   # {comment}{newline}{inside}x: '#'{newline}{inside}num_workers:{' ' * spaces}"
    tail = f"  # {comment}{newline}{' ' * indent}y: ${{z}}{newline}"
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    path.write_bytes(f"{head}{old}{tail}".encode())
    apply_num_workers(path, {"a.num_workers": new})
    assert path.read_bytes() == f"{head}{new}{tail}".encode()
