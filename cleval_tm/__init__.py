"""CLEval (character-level evaluation) for text detection and OCR.

``import cleval_tm`` alone is cheap: it imports neither torch nor numba. The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cleval_tm._version import __version__

if TYPE_CHECKING:
    from cleval_tm.counts import COUNTS
    from cleval_tm.evaluation import Evaluation, evaluate
    from cleval_tm.metric import CLEvalMetric
    from cleval_tm.rules import CLEvalRules

__all__ = ["COUNTS", "CLEvalMetric", "CLEvalRules", "Evaluation", "__version__", "evaluate"]

_HOME = {
    "COUNTS": "cleval_tm.counts",
    "CLEvalMetric": "cleval_tm.metric",
    "CLEvalRules": "cleval_tm.rules",
    "Evaluation": "cleval_tm.evaluation",
    "evaluate": "cleval_tm.evaluation",
}
_ROOMS = ("compat", "io", "lightning", "workers")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return import_module(f"cleval_tm.{name}")
    raise AttributeError(f"module 'cleval_tm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
