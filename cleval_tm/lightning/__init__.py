"""CLEval in Lightning: an evaluator over a dataset's annotations, and a callback for any LightningModule.

The names load on first use; :class:`CLEvalEvaluator` needs no Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleval_tm.lightning.callback import CLEvalCallback
    from cleval_tm.lightning.evaluator import CLEvalEvaluator

__all__ = ["CLEvalCallback", "CLEvalEvaluator"]

_HOME = {"CLEvalCallback": "callback", "CLEvalEvaluator": "evaluator"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cleval_tm.lightning' has no attribute {name!r}")
    return getattr(import_module(f"cleval_tm.lightning.{_HOME[name]}"), name)
