"""What every test file can ask for."""

from __future__ import annotations

import inspect
import json
import os
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters:
    # click before 8.2 mixes the two streams unless told not to; later ones always keep them apart
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """The folder of published ground truth and results: ``CLEVAL_TM_DATA``, else beside the repository."""
    given = os.environ.get("CLEVAL_TM_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    return folder if (folder / "reference.json").is_file() else None


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of published files, or a skip."""
    folder = data_folder()
    if folder is None:
        pytest.skip("the published files are not here: set CLEVAL_TM_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reference(data: Path) -> dict[str, Any]:
    """What each published implementation printed on the files of ``data``."""
    return json.loads((data / "reference.json").read_text())  # type: ignore[no-any-return]
