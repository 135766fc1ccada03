"""How many DataLoader workers: measure, explain, choose, write.

The four phases of choosing ``num_workers``, each usable by itself:

* :class:`StepTraceCallback` instruments a Lightning run (profiler traces, wall times, CPU use),
* :func:`sweep_workers` and :func:`tune_workers` measure candidates, :func:`cpu_budget` says how many CPUs there are,
* :func:`analyze_trace` and :func:`analyze_multirun` read what was recorded,
* :func:`apply_num_workers` writes the choice into a YAML file and changes nothing else.

``import cleval_tm.workers`` is cheap: each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleval_tm.workers.apply import apply_num_workers
    from cleval_tm.workers.budget import cpu_budget
    from cleval_tm.workers.callback import StepTraceCallback
    from cleval_tm.workers.multirun import analyze_multirun
    from cleval_tm.workers.result import WorkerSweep
    from cleval_tm.workers.sweep import sweep_workers
    from cleval_tm.workers.trace import analyze_trace
    from cleval_tm.workers.tune import tune_workers

__all__ = [
    "StepTraceCallback",
    "WorkerSweep",
    "analyze_multirun",
    "analyze_trace",
    "apply_num_workers",
    "cpu_budget",
    "sweep_workers",
    "tune_workers",
]

_HOME = {
    "StepTraceCallback": "callback",
    "WorkerSweep": "result",
    "analyze_multirun": "multirun",
    "analyze_trace": "trace",
    "apply_num_workers": "apply",
    "cpu_budget": "budget",
    "sweep_workers": "sweep",
    "tune_workers": "tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cleval_tm.workers' has no attribute {name!r}")
    value = getattr(import_module(f"cleval_tm.workers.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
