"""The example of a detector trained by the score, run short."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("lightning.pytorch", reason="Lightning is not installed (extra `lightning`)")
pytest.importorskip("PIL", reason="Pillow is not installed")


def test_the_detector_keeps_its_best_epoch(tmp_path, capsys):
    path = Path(__file__).parent.parent / "examples" / "detector.py"
    spec = importlib.util.spec_from_file_location("detector_example", path)
    assert spec is not None
    assert spec.loader is not None
    detector = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detector)
    scores = detector.main(["--pages", "96", "--epochs", "2", "--folder", str(tmp_path)])
    [checkpoint] = tmp_path.glob("epoch=*.ckpt")
    assert str(checkpoint) in capsys.readouterr().out
    assert 0.05 < scores["val/det_hmean"] <= 1
    assert scores["val/mean_det_precision"] > 0.5
