"""Every code block of README and docs runs, and so does every example in a docstring.

Python blocks of a page share one namespace, in a folder with prepared files (``gt.zip``, ``res.zip``,
``val.json``, ``submission.csv``, ``sizes.csv`` and a copy of ``examples``). Of shell blocks the lines that call
``cleval-tm`` run. A block after ``<!-- not run: reason -->`` does not. A page with ``<!-- folder: examples/x -->``
runs in that folder of the copy.
"""

from __future__ import annotations

import doctest
import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import cleval_tm
from cleval_tm.cli import app
from cleval_tm.demo import as_zip, make_documents

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cleval_tm.__path__, "cleval_tm.")
    if not module.name.endswith("__main__")
)
SHELL = ("", "sh", "bash", "shell", "console")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], code, match["reason"]))
    return found


def commands_of(block: Block) -> list[str]:
    """The ``cleval-tm`` commands of a shell block, continued lines joined."""
    joined = block.code.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in lines if line.startswith("cleval-tm ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    preds, target = make_documents(9)
    (tmp_path / "gt.zip").write_bytes(as_zip(target, "gt_"))
    (tmp_path / "res.zip").write_bytes(as_zip(preds, "res_"))
    words = {
        image["image_id"]: {
            "words": {
                str(number): {"points": shape.tolist(), "transcription": text}
                for number, (shape, text) in enumerate(zip(image["polygons"], image["texts"], strict=True))
            }
        }
        for image in target
    }
    (tmp_path / "val.json").write_text(json.dumps({"images": words}))
    rows = [
        f"{image['image_id']},{'|'.join(' '.join(map(str, shape.ravel())) for shape in image['polygons'])}"
        for image in preds
    ]
    (tmp_path / "submission.csv").write_text("\n".join(["filename,polygons", *rows]))
    sizes = [f"{image['image_id']},{image['image_size'][1]},{image['image_size'][0]}" for image in target]
    (tmp_path / "sizes.csv").write_text("\n".join(["image,width,height", *sizes]))
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    where = f"{block.page.name}:{block.line}"
    if ">>>" in block.code:
        test = doctest.DocTestParser().get_doctest(block.code, namespace, where, str(block.page), block.line)
        report = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.write, clear_globs=False)
        assert not runner.failures, report.getvalue()
        namespace.update(test.globs)
        return
    exec(compile("\n" * block.line + block.code, where, "exec"), namespace)


def run_command(command: str, block: Block) -> None:
    result = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
    told = f"{block.page.name}:{block.line}: {command}\n{result.output}"
    assert result.exit_code == 0, told + "".join(traceback.format_exception(result.exception))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    elsewhere = re.search(r"^<!-- folder: (\S+) -->", page.read_text(encoding="utf-8"), re.MULTILINE)
    if elsewhere:
        os.chdir(folder / elsewhere[1])
    for block in blocks_of(page):
        if block.reason:
            continue
        if block.language in ("python", "py", "pycon"):
            with redirect_stdout(io.StringIO()):
                run_python(block, namespace)
        elif block.language in SHELL and "pip install" not in block.code:
            for command in commands_of(block):
                run_command(command, block)


def test_blocks_are_found():
    readme = blocks_of(ROOT / "README.md")
    assert sum(block.language == "python" for block in readme) >= 1
    assert sum(len(commands_of(block)) for block in readme) >= 3


def test_setup_commands_are_the_documented_two():
    commands = [
        line for block in blocks_of(ROOT / "README.md") for line in block.code.splitlines() if "pip " in line
    ]
    assert commands == [
        "pip install -c constraints.txt . && cleval-tm demo",
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_figures_are_the_references(reference):
    """The table of README against what each implementation itself printed."""
    kr, ic15 = reference["eval_doc_v1_kr"], reference["IC15_perturbed"]
    real, total = reference["IC15_real_detections"], reference["TotalText_perturbed"]

    def row(*values: float | str | None) -> str:
        cells = [
            value if isinstance(value, str) else "" if value is None else f"{value:.4f}" for value in values
        ]
        return re.sub(r" +", " ", "| " + " | ".join(cells) + " |")

    expected = [
        row(
            *("documents (KR)", "detection", kr["v2023"]["det"]["hmean"]),
            *(kr["v2020"]["scores"]["det_hmean"], kr["upstage"]["mean_hmean"]),
        ),
        row(
            *("documents (KR)", "end-to-end", kr["v2023"]["e2e"]["hmean"]),
            *(kr["v2020"]["scores"]["e2e_hmean"], "no texts"),
        ),
        row(
            *("ICDAR 2015, perturbed", "detection", ic15["v2023"]["det"]["hmean"]),
            *(ic15["v2020"]["scores"]["det_hmean"], None),
        ),
        row(
            *("ICDAR 2015, perturbed", "end-to-end", ic15["v2023"]["e2e"]["hmean"]),
            *(ic15["v2020"]["scores"]["e2e_hmean"], "no texts"),
        ),
        row(
            *("ICDAR 2015, a real detector", "detection", real["v2023"]["det"]["hmean"]),
            *(None, real["upstage"]["mean_hmean"]),
        ),
        row(
            "TotalText polygons, perturbed",
            "detection",
            "stops with an error",
            total["v2020"]["scores"]["det_hmean"],
            None,
        ),
    ]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [re.sub(r" +", " ", line) for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == expected


def test_table_of_rule_sets_is_what_its_script_prints(data):
    script = ROOT / "docs" / "scripts" / "compare_rules.py"
    done = subprocess.run(
        [sys.executable, str(script), str(data)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
