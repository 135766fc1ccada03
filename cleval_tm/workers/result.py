"""What a sweep found: the rows, the suggestion, the explanation in words, the plot, the JSON."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cleval_tm.workers.choice import Choice, choose, scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_FORMAT = "cleval_tm.WorkerSweep/1"


@dataclass(frozen=True)
class WorkerResult:
    """One candidate: what its repeats measured.

    Attributes:
        num_workers: The candidate.
        times: Seconds per step of each repeat, epoch boundaries included.
        rounds: Number of the round that each repeat belongs to; repeats of one round (over all candidates)
            ran right after one another. Same length as ``times``; left out, it is ``0, 1, 2, ...``.
        wait_share: Share of the time in which the loop waited for a batch (or, at the start of an epoch, for
            its workers), 0 to 1; None if unknown.
        cpu_use: CPU time of the main process and all workers over wall time and budget: 1.0 is "all CPUs of
            the budget busy"; None if unknown.
        memory_bytes: Memory of all workers together (PSS: shared pages counted once), in bytes; None if
            unknown.
        startup_s: Seconds from the start of an epoch to its first batch; None if unknown.
        steady: Seconds per step within an epoch, what its start and end cost left out; None if unknown.
        steps: Number of steps measured, all repeats together.
        prefetch_factor: As the loader had it; None with 0 workers or if unknown.
        persistent_workers: As the loader had it; None if unknown.
        failures: What went wrong in repeats of this candidate, in words. A candidate that failed is never
            suggested.
        skipped: Why this candidate was not measured at all; None if it was.
    """

    num_workers: int
    times: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()
    wait_share: float | None = None
    cpu_use: float | None = None
    memory_bytes: int | None = None
    startup_s: float | None = None
    steady: float | None = None
    steps: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool | None = None
    failures: tuple[str, ...] = ()
    skipped: str | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"Expected argument `num_workers` to be 0 or more but got {self.num_workers}")
        if any(not (math.isfinite(value) and value > 0) for value in self.times):
            raise ValueError(
                f"Expected argument `times` of the result for {self.num_workers} workers to hold positive "
                f"finite seconds but got {self.times}"
            )
        if not self.rounds:
            object.__setattr__(self, "rounds", tuple(range(len(self.times))))
        if len(self.rounds) != len(self.times) or len(set(self.rounds)) != len(self.rounds):
            raise ValueError(
                f"Expected argument `rounds` of the result for {self.num_workers} workers to hold one "
                f"distinct number for each of the {len(self.times)} times but got {self.rounds}"
            )

    @property
    def ok(self) -> bool:
        """Whether it was measured and nothing failed."""
        return bool(self.times) and not self.failures and self.skipped is None

    @property
    def seconds_per_step(self) -> float | None:
        """Median of the repeats, in seconds; None without a repeat."""
        return median(self.times) if self.times else None

    @property
    def noise(self) -> float | None:
        """Robust standard deviation of the repeats, in seconds; None with fewer than two repeats."""
        return scatter(list(self.times)) if len(self.times) > 1 else None

    @property
    def by_round(self) -> dict[int, float]:
        """Seconds per step by round."""
        return dict(zip(self.rounds, self.times, strict=True))


@dataclass(frozen=True)
class WorkerSweep:
    """The result of a sweep over ``num_workers``, with the methods of Lightning's ``lr_find`` result.

    Attributes:
        results: One row a candidate, fewest workers first.
        current: The value in use before the sweep; None if unknown.
        single_run: Whether each candidate was measured in one run only (a Hydra multirun): ``times`` are then
            blocks within that run, nothing is paired, and what differs between runs is not in the noise.
        cpus: The CPU budget of the process, in CPUs; None if unknown.
        loader: What was swept, for example ``"train_dataloader"``; None if it has no name.
        variants: Rows with another ``prefetch_factor`` or ``persistent_workers``, tried on the best value.
        notes: Warnings and remarks in words: contention, candidates skipped, restarts.

    Example:
        >>> from cleval_tm.workers import WorkerSweep
        >>> from cleval_tm.workers.result import WorkerResult
        >>> sweep = WorkerSweep(
        ...     results=(
        ...         WorkerResult(0, times=(0.0621, 0.0619, 0.0620), wait_share=0.67),
        ...         WorkerResult(2, times=(0.0231, 0.0226, 0.0224), wait_share=0.09),
        ...         WorkerResult(4, times=(0.0237, 0.0242, 0.0235), wait_share=0.10),
        ...     ),
        ...     current=4,
        ... )
        >>> sweep.suggestion()
        2
        >>> print(sweep.explain())  # doctest: +NORMALIZE_WHITESPACE
        Suggestion: num_workers = 2 (now 4): 22.6 ms a step instead of 23.7 ms.
        Waiting is 67 % of a step with 0 workers and 9 % with 2; more gain nothing: the step is the
        bottleneck.
    """

    results: tuple[WorkerResult, ...]
    current: int | None = None
    single_run: bool = False
    cpus: float | None = None
    loader: str | None = None
    variants: tuple[WorkerResult, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", tuple(sorted(self.results, key=lambda row: row.num_workers)))
        object.__setattr__(self, "variants", tuple(self.variants))
        object.__setattr__(self, "notes", tuple(self.notes))
        numbers = [row.num_workers for row in self.results]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"Expected argument `results` to hold each num_workers once but got {numbers}")

    @cached_property
    def choice(self) -> Choice:
        """The decision with its comparisons.

        Raises:
            RuntimeError: If no candidate could be measured.
        """
        times = {row.num_workers: row.by_round for row in self.results if row.ok}
        if not times:
            why = "; ".join(
                f"{r.num_workers} workers: {reason}" for r in self.results for reason in _reasons(r)
            )
            raise RuntimeError(f"No candidate could be measured ({why or 'the sweep holds no row'})")
        return choose(times, self.current, paired=not self.single_run)

    @property
    def conclusive(self) -> bool:
        """Whether the measurement was clear enough to tell the candidates apart."""
        return self.choice.conclusive

    def suggestion(self) -> int:
        """The number of workers to use.

        The fewest workers whose time per step is within the measured noise of the fastest (or within 5 % of
        it), never a value that measured slower than the current one. While the sweep is inconclusive it is
        the likeliest value: the fewest that measured as fast as the fastest, whatever the noise.

        Raises:
            RuntimeError: If no candidate could be measured.
        """
        return self.choice.suggestion

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for ``DataLoader``: the suggestion, and those variants that measured clearly
        faster.

        Returns:
            ``{"num_workers": n}``, with ``"prefetch_factor"`` and ``"persistent_workers"`` where another
            value than the loader's own was clearly faster. ``num_workers`` differs from :meth:`suggestion` in
            one case: where processes that persist make more workers pay than processes started anew each
            epoch.

        Raises:
            RuntimeError: If no candidate could be measured.
        """
        variant = self.best_variant
        if variant is None:
            return {"num_workers": self.suggestion()}
        found: dict[str, Any] = {"num_workers": variant.num_workers}
        base = self.row(variant.num_workers)
        if variant.prefetch_factor != base.prefetch_factor:
            found["prefetch_factor"] = variant.prefetch_factor
        if variant.persistent_workers != base.persistent_workers:
            found["persistent_workers"] = variant.persistent_workers
        return found

    @cached_property
    def best_variant(self) -> WorkerResult | None:
        """The variant that measured clearly faster than the suggestion, if any."""
        from cleval_tm.workers.choice import TOLERANCE, compare

        base = self.row(self.suggestion()).by_round
        paired = not self.single_run
        found = [(compare(row.by_round, base, paired=paired), row) for row in self.variants if row.ok]
        clear = [(c.ratio, row) for c, row in found if c.ratio < 1 - max(TOLERANCE, c.noise)]
        return min(clear, key=lambda pair: pair[0])[1] if clear else None

    def row(self, num_workers: int) -> WorkerResult:
        """The row of a candidate.

        Raises:
            KeyError: If the sweep has no such row.
        """
        for row in self.results:
            if row.num_workers == num_workers:
                return row
        raise KeyError(
            f"The sweep holds {[r.num_workers for r in self.results]} workers but not {num_workers}"
        )

    def explain(self) -> str:
        """The decision in words: a few sentences, one a line."""
        from cleval_tm.workers.explain import explain

        return explain(self)

    def plot(self, ax: Axes | None = None) -> Figure | SubFigure:
        """Draw time per step and waiting over the number of workers; needs matplotlib.

        Args:
            ax: Where to draw; None makes a figure.

        Returns:
            The figure, to show or to save.
        """
        from cleval_tm.workers.plot import plot_sweep

        return plot_sweep(self, ax)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The sweep as JSON text, to be read by :meth:`from_json`.

        Args:
            path: Where to write the text too, atomically; None writes nothing.
        """
        data = asdict(self)
        text = json.dumps({"format": _FORMAT, **self._summary(), **data}, indent=1)
        if path is not None:
            _write(Path(path), text + "\n")
        return text

    def _summary(self) -> dict[str, Any]:
        """What a reader of the JSON text wants without this library; ignored by :meth:`from_json`."""
        try:
            return {
                "suggestion": self.suggestion(),
                "settings": self.settings(),
                "conclusive": self.conclusive,
            }
        except RuntimeError:
            return {"suggestion": None, "settings": None, "conclusive": False}

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> WorkerSweep:
        """Read a sweep from JSON text or from a file.

        Args:
            source: Text made by :meth:`to_json`, or the path of a file with it.

        Returns:
            The sweep, equal to the one written.

        Raises:
            FileNotFoundError: If it is a path and there is no such file.
            ValueError: If the text is no JSON of a sweep.
        """
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else None
        where = "the text" if text is not None else os.fspath(source)
        if text is None:
            text = Path(source).read_text(encoding="utf-8")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Expected {where} to be JSON of a worker sweep but got an error: {error}"
            ) from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"Expected {where} to have format {_FORMAT!r} but got {found!r}")
        plain = {name: data[name] for name in ("current", "single_run", "cpus", "loader") if name in data}
        return cls(
            results=tuple(_row(item, where) for item in data.get("results", ())),
            variants=tuple(_row(item, where) for item in data.get("variants", ())),
            notes=tuple(data.get("notes", ())),
            **plain,
        )


def _row(item: Mapping[str, Any], where: str) -> WorkerResult:
    try:
        known = {entry.name for entry in fields(WorkerResult)} & item.keys()
        values: dict[str, Any] = {
            name: tuple(item[name]) if isinstance(item[name], list) else item[name] for name in known
        }
        return WorkerResult(**values)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"Expected each row in {where} to be a worker result but got {item!r}") from error


def _reasons(row: WorkerResult) -> tuple[str, ...]:
    return (*row.failures, row.skipped) if row.skipped else row.failures


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
