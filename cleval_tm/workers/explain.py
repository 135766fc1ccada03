"""A sweep's decision in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cleval_tm.workers.result import WorkerResult, WorkerSweep

_LITTLE_WAITING = 0.20
_MUCH_STARTING = 0.15
_BUSY = 0.80
_FEW = 3


def explain(sweep: WorkerSweep) -> str:
    """The sentences of :meth:`WorkerSweep.explain`, one a line."""
    try:
        choice = sweep.choice
    except RuntimeError as error:
        return f"No suggestion: {error}."
    lines = [_suggestion(sweep), _waiting(sweep), _processor(sweep)]
    if not choice.conclusive:
        lines.append(_inconclusive(sweep))
    lines.append(_variant(sweep))
    if sweep.single_run:
        lines.append(
            "Each value was measured in a single run: the noise is from blocks within the runs, and what "
            "differs between runs is not in it."
        )
    for row in sweep.results:
        lines.extend(f"{_workers(row.num_workers)} failed: {failure}" for failure in row.failures)
        if row.skipped:
            lines.append(f"{_workers(row.num_workers)} skipped: {row.skipped}")
    lines.extend(sweep.notes)
    return "\n".join(line[0].upper() + line[1:] for line in lines if line)


def _suggestion(sweep: WorkerSweep) -> str:
    chosen = sweep.suggestion()
    time = _seconds(sweep.row(chosen))
    if sweep.current is None:
        return f"Suggestion: num_workers = {chosen}: {time} a step."
    if chosen == sweep.current:
        return f"Suggestion: keep num_workers = {chosen}: {time} a step."
    now = next((row for row in sweep.results if row.num_workers == sweep.current and row.ok), None)
    instead = f" instead of {_seconds(now)}" if now else f"; {sweep.current} could not be measured"
    return f"Suggestion: num_workers = {chosen} (now {sweep.current}): {time} a step{instead}."


def _waiting(sweep: WorkerSweep) -> str:
    chosen = sweep.row(sweep.suggestion())
    if chosen.wait_share is None:
        return ""
    share = f"{100 * chosen.wait_share:.0f} %"
    more = [row for row in sweep.results if row.ok and row.num_workers > chosen.num_workers]
    rest = f"more gain {_gain_of_more(sweep)}" if more else "more were not measured"
    first = next((row for row in sweep.results if row.ok), chosen)
    if first is chosen or first.wait_share is None:
        start = f"waiting is {share} of a step with {_workers(chosen.num_workers)}"
    else:
        start = (
            f"waiting is {100 * first.wait_share:.0f} % of a step with {_workers(first.num_workers)} "
            f"and {share} with {chosen.num_workers}"
        )
    return f"{start}; {rest}: {_bottleneck(sweep, chosen)}."


def _gain_of_more(sweep: WorkerSweep) -> str:
    fastest = sweep.choice.fastest
    ratio = sweep.choice.against_fastest[sweep.suggestion()].ratio
    if fastest <= sweep.suggestion() or ratio <= 1.005:
        return "nothing"
    return f"at most {100 * (1 - 1 / ratio):.0f} %"


def _bottleneck(sweep: WorkerSweep, row: WorkerResult) -> str:
    if row.wait_share is not None and row.wait_share <= _LITTLE_WAITING:
        return "the step is the bottleneck"
    if row.cpu_use is not None and row.cpu_use >= _BUSY:
        return "the CPUs are the bottleneck"
    if row.num_workers and row.steady and row.seconds_per_step:
        starting = 1 - row.steady / row.seconds_per_step
        if starting > _MUCH_STARTING:
            return f"starting the workers at each epoch is {100 * starting:.0f} % of the time"
    contended = any(note.startswith("Contention") for note in sweep.notes)
    unknown = contended or row.cpu_use is None
    return "loading is the bottleneck" + ("" if unknown else ", but not for want of CPU")


def _processor(sweep: WorkerSweep) -> str:
    row = sweep.row(sweep.suggestion())
    if row.cpu_use is None:
        return ""
    budget = f" of {sweep.cpus:g} CPUs" if sweep.cpus else ""
    memory = "" if not row.memory_bytes else f", and its workers hold {row.memory_bytes / 2**20:.0f} MiB"
    return f"It keeps {100 * row.cpu_use:.0f} %{budget} busy{memory}."


def _inconclusive(sweep: WorkerSweep) -> str:
    choice = sweep.choice
    pairs: list[str] = [
        f"{w} against {choice.fastest}: {100 * (choice.against_fastest[w].ratio - 1):+.0f} %"
        + ("" if choice.against_fastest[w].noise > 9 else f" ± {100 * choice.against_fastest[w].noise:.0f} %")
        for w in choice.unclear[:_FEW]
    ] + ["..."] * (len(choice.unclear) > _FEW)
    keeps = (
        "the current value stays"
        if choice.suggestion == sweep.current
        else "the suggestion is the likeliest value"
    )
    return (
        f"Inconclusive: the measurement is too noisy to tell the candidates apart "
        f"({', '.join(pairs)}); {keeps}. "
        "Measure again on a quieter machine, or with more repeats."
    )


def _variant(sweep: WorkerSweep) -> str:
    variant = sweep.best_variant
    if variant is None:
        return ""
    changes = [f"{name}={value}" for name, value in sweep.settings().items()]
    return f"Faster still: {', '.join(changes)} takes {_seconds(variant)} a step."


def _seconds(row: WorkerResult) -> str:
    return seconds_text(row.seconds_per_step or 0.0)


def seconds_text(seconds: float) -> str:
    """Seconds with a unit to read: ``0.0226`` is ``"22.6 ms"``."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _workers(number: int) -> str:
    return f"{number} worker" + ("" if number == 1 else "s")
