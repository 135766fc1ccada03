"""``cleval-tm workers``: measure, explain and write the number of DataLoader workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleval_tm.cli.console import plain_errors, remark, say

if TYPE_CHECKING:
    from rich.table import Table

    from cleval_tm.workers.result import WorkerResult, WorkerSweep
    from cleval_tm.workers.trace import TraceAnalysis

app = typer.Typer(
    name="workers",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How many DataLoader workers: measure, explain, write the choice into a YAML file.",
)

_JsonOut = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Write the sweep there as JSON.")
]
_PlotOut = Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw it there.")]


@app.command()
def sweep(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="A DataLoader, a datamodule, or a function that makes one, optionally from num_workers.",
        ),
    ],
    step: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME | SECONDS",
            help="The training step: a function of one batch, or the seconds that it takes on an accelerator.",
        ),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="0,2,4", help="Numbers of workers to measure; left out, it climbs while it helps."
        ),
    ] = None,
    current: Annotated[int | None, typer.Option(help="The number in use, if not the loader's own.")] = None,
    loader: Annotated[
        str | None, typer.Option(help="A datamodule's method, or a name for the result.", metavar="NAME")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Length of one trial; each candidate has three or more.")
    ] = 1.5,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a batch after which a candidate hung.")
    ] = 60.0,
    json_path: _JsonOut = None,
    plot_path: _PlotOut = None,
) -> None:
    """Measures num_workers in a loop over your own loader, with your own step."""
    with plain_errors():
        _check_outputs(json_path, plot_path)
        given = _located(source)
        work = _step(step)
        numbers = _numbers(candidates)
        from cleval_tm.workers import sweep_workers

        found = sweep_workers(
            given,
            work,
            candidates=numbers,
            current=current,
            loader=loader,
            seconds=seconds,
            timeout=timeout,
        )
        _report(found, json_path, plot_path)


@app.command()
def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Folders of Hydra multiruns (multirun/DATE/TIME), or profiler traces (.json, .json.gz).",
        ),
    ],
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The override that was swept, if it is not clear.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this override. Can be given repeatedly."),
    ] = None,
    current: Annotated[
        int | None,
        typer.Option(help="The number in use now; left out, the project's configuration is asked."),
    ] = None,
    json_path: _JsonOut = None,
    plot_path: _PlotOut = None,
) -> None:
    """Reads what training runs recorded: a multirun as a sweep, a trace as its waits."""
    with plain_errors():
        _check_outputs(json_path, plot_path)
        folders = [path for path in paths if path.is_dir()]
        if len(paths) > 1 and folders and (json_path or plot_path):
            raise ValueError("Expected one PATH with --json or --plot but got several")
        from cleval_tm.workers import analyze_multirun, analyze_trace

        for path in paths:
            if path.is_dir() and _is_run(path):
                found = analyze_multirun(path, key=key, where=_pairs(where or []), current=current)
                _report(found, json_path, plot_path)
        traces = [analyze_trace(trace) for path in paths for trace in _traces_of(path)]
        if traces:
            _report_traces(traces, json_path, plot_path)


@app.command()
def apply(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file to change.")],
    sweep_path: Annotated[
        Path | None, typer.Option("--from", metavar="SWEEP.json", help="What `sweep` or `analyze` wrote.")
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option("--num-workers", "-n", min=0, help="This number, without a sweep.")
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The loader's key in the file, such as train_dataloader."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change and write nothing.")] = False,
) -> None:
    """Writes the choice into a YAML file; comments, order and every other byte stay."""
    with plain_errors():
        if (sweep_path is None) == (num_workers is None):
            raise ValueError("Expected either --from SWEEP.json or --num-workers")
        from cleval_tm.workers.apply import apply_num_workers, worker_keys
        from cleval_tm.workers.result import WorkerSweep

        known = worker_keys(config)
        if sweep_path is not None:
            found = WorkerSweep.from_json(sweep_path)
            wanted, name = _settings_of(found), loader or found.loader
            if not found.conclusive:
                remark("the sweep is inconclusive; a longer one may choose otherwise", "warning")
        else:
            wanted, name = {"num_workers": num_workers}, loader
        key = _key_in(config, list(known), name, given=loader is not None)
        section = key.removesuffix("num_workers")
        present = _present(config, section, wanted)
        try:
            edit = apply_num_workers(config, present, dry_run=dry_run)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        if edit.changed:
            say(edit.diff.rstrip("\n"))
        for note in edit.notes:
            remark(note)
        for name in wanted:
            if f"{section}{name}" not in present:
                remark(f"the sweep also found {name}: {wanted[name]}, for which {config} has no key")
        if not edit.changed:
            say(f"{config}: {key} is {present[key]} already")
        elif not dry_run:
            say(f"{config}: {key} is now {present[key]}")


# What the commands are given


def _located(name: str) -> Any:
    """The object of ``package.module:name``; the current folder is searched too."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"Expected MODULE:NAME, such as mypackage.data:make_loader, but got {name!r}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Expected {name!r} to name a module that can be imported: {error}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"Expected {name!r} to exist but {module!r} has no {attribute!r}") from None
    return found


def _step(step: str | None) -> Any:
    if step is None:
        return None
    try:
        return float(step)
    except ValueError:
        return _located(step)


def _numbers(candidates: str | None) -> list[int] | None:
    if candidates is None:
        return None
    try:
        return [int(part) for part in candidates.split(",")]
    except ValueError:
        raise ValueError(
            f"Expected --candidates to be numbers such as 0,2,4 but got {candidates!r}"
        ) from None


def _pairs(where: Iterable[str]) -> dict[str, str]:
    found = {}
    for pair in where:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"Expected --where to be KEY=VALUE but got {pair!r}")
        found[key] = value
    return found


def _check_outputs(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"Expected to write {path} into a folder that exists")


def _is_run(folder: Path) -> bool:
    """Whether the folder holds jobs, rather than loose traces alone."""
    return any(True for name in (".hydra", "steps.jsonl") for _ in folder.rglob(name)) or not _traces_of(
        folder
    )


def _traces_of(path: Path) -> list[Path]:
    """The trace itself, or the traces in a folder that is no run."""
    if not path.is_dir():
        return [path]
    traces = sorted({*path.glob("*trace*.json"), *path.glob("*trace*.json.gz")})
    if any(True for name in (".hydra", "steps.jsonl") for _ in path.rglob(name)):
        return []
    return traces


# What they print and write


def _report(found: WorkerSweep, json_path: Path | None, plot_path: Path | None) -> None:
    say(_sweep_table(found))
    say("", found.explain())
    if json_path is not None:
        found.to_json(json_path)
        remark(f"wrote {json_path}", "")
    if plot_path is not None:
        _save_figure(found.plot(), plot_path)


def _sweep_table(found: WorkerSweep) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = found.loader or "DataLoader"
    if found.single_run:
        title += ", one run each"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("workers", "ms/step", "± noise", "waiting", "CPU use", "start-up", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    chosen = found.suggestion() if any(row.ok for row in found.results) else None
    for row in found.results:
        marks = [
            *(["now"] if row.num_workers == found.current else []),
            *(["suggested"] if row.num_workers == chosen else []),
            *row.failures,
            *([row.skipped] if row.skipped else []),
        ]
        table.add_row(str(row.num_workers), *_cells(row), ", ".join(marks))
    for row in found.variants:
        table.add_row(str(row.num_workers), *_cells(row), _changed(row, found.row(row.num_workers)))
    return table


def _changed(variant: WorkerResult, base: WorkerResult) -> str:
    """What a variant has otherwise than its base, in words short enough for a narrow column."""
    words = []
    if variant.prefetch_factor != base.prefetch_factor:
        words.append(f"prefetch {variant.prefetch_factor}")
    if variant.persistent_workers != base.persistent_workers:
        words.append("persistent" if variant.persistent_workers else "not persistent")
    return ", ".join(words)


def _cells(row: WorkerResult) -> list[str]:
    def shown(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value * scale, form)

    return [
        shown(row.seconds_per_step, ".1f", 1e3),
        shown(row.noise, ".1f", 1e3),
        shown(row.wait_share, ".0%"),
        shown(row.cpu_use, ".0%"),
        shown(row.startup_s, ".2f") + (" s" if row.startup_s is not None else ""),
        str(row.steps),
    ]


def _report_traces(traces: list[TraceAnalysis], json_path: Path | None, plot_path: Path | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="steps and waits in ms", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("trace", overflow="fold")
    table.add_column("phase")
    for name in ("steps", "waiting", "step", "wait", "p95", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    for trace in traces:
        for phase in trace.phases.values():
            table.add_row(
                trace.path.name,
                phase.phase,
                str(phase.steps),
                f"{phase.wait_share:.0%}",
                *(f"{value * 1e3:.1f}" for value in (phase.step_median, phase.wait_median)),
                *(f"{value * 1e3:.1f}" for value in (phase.wait_p95, phase.longest_wait)),
            )
    say(table, "", *(str(trace) for trace in traces))
    if json_path is not None:
        import json

        json_path.write_text(json.dumps([trace.to_dict() for trace in traces], indent=1) + "\n", "utf-8")
        remark(f"wrote {json_path}", "")
    if plot_path is not None:
        if len(traces) > 1:
            raise ValueError(f"Expected one trace with --plot but got {len(traces)}")
        _save_figure(traces[0].plot().figure, plot_path)


def _save_figure(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    remark(f"wrote {path}", "")


# What `apply` writes


def _settings_of(found: WorkerSweep) -> dict[str, Any]:
    try:
        return found.settings()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _key_in(config: Path, known: list[str], name: str | None, *, given: bool) -> str:
    """The key of the file that a loader's name means; a longer name may begin above the file's root."""
    if name is not None:
        parts = name.removesuffix(".num_workers").split(".")
        for cut in range(len(parts)):
            key = ".".join([*parts[cut:], "num_workers"])
            if key in known:
                return key
        if given or len(known) != 1:
            have = ", ".join(known) or "no num_workers"
            raise ValueError(f"Expected {config} to have {name}.num_workers but it has {have}: pass --loader")
    if len(known) != 1:
        have = ", ".join(known) or "none"
        raise ValueError(f"Expected {config} to have one num_workers but it has {have}: pass --loader")
    return known[0]


def _present(config: Path, section: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of the wanted settings that the file has a key for; num_workers is among them."""
    from cleval_tm.workers.apply import section_keys

    keys = section_keys(config, section.rstrip("."))
    return {f"{section}{name}": value for name, value in wanted.items() if name in keys}
