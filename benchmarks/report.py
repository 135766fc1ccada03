"""Turn a run of the benchmarks into the tables and the chart of docs/performance.md.

pytest benchmarks --benchmark-json run.json
python -m benchmarks.report run.json --into docs/performance.md --chart docs/assets/performance.png
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@dataclass(frozen=True)
class Measured:
    """One benchmark of a run: medians in seconds."""

    what: str
    role: str
    claims: tuple[str, ...]
    median: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """What ours and a peer took for the same work in the same run."""

    name: str
    ours: Measured
    peer: Measured

    @property
    def ratio(self) -> float:
        """How many times faster ours was."""
        return self.peer.median / self.ours.median


def read(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """The machine and the benchmarks of a run (pytest-benchmark's JSON).

    Raises:
        ValueError: if the file is no such run.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        measured = [
            Measured(
                what=entry["extra_info"].get("what", entry["name"]),
                role=entry["extra_info"].get("role", "ours"),
                claims=tuple(entry["extra_info"].get("claims", ())),
                median=entry["stats"]["median"],
                figures=entry["extra_info"].get("figures", {}),
            )
            for entry in run["benchmarks"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {path} to be a run written by --benchmark-json but got {error!r}"
        ) from error
    return run, measured


def claims_of(measured: list[Measured]) -> list[Claim]:
    """Claims for which both ours and a peer were measured, in the order of the run."""
    by_name: dict[str, dict[str, Measured]] = defaultdict(dict)
    for one in measured:
        for name in one.claims:
            by_name[name][one.role] = one
    return [Claim(name, both["ours"], both["peer"]) for name, both in by_name.items() if len(both) == 2]


def tables(run: dict[str, Any], measured: list[Measured]) -> str:
    """The run as Markdown: ratios, other times, figures that are no times, and where it was run."""
    claims = claims_of(measured)
    lines = ["| on the same work, in the same run | ours | peer | ratio |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {claim.name}: {claim.peer.what} | {in_units(claim.ours.median)} | {in_units(claim.peer.median)} "
        f"| **{claim.ratio:,.{0 if claim.ratio >= 20 else 1}f}** |"
        for claim in claims
    ]
    compared = {id(side) for claim in claims for side in (claim.ours, claim.peer)}
    lines += ["", "| by itself | median |", "| --- | ---: |"]
    lines += [f"| {one.what} | {in_units(one.median)} |" for one in measured if id(one) not in compared]
    lines += ["", "| figure | value |", "| --- | ---: |"]
    for one in measured:
        for name, value in one.figures.items():
            if not isinstance(value, list):
                lines.append(f"| {one.what}: {name.replace('_', ' ')} | {value:,.4g} |")
    return "\n".join([*lines, "", where(run)])


def where(run: dict[str, Any]) -> str:
    """Machine, versions and date of a run."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = run["machine_info"].get("cpu", {})
    names = ("cleval-tm", "numba", "numpy", "torch", "torchmetrics", "shapely", "cleval")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"Measured on {run['datetime'][:10]}: {cpu.get('brand_raw', 'unknown processor')}, {cpu.get('count', '?')} "
        f"logical cores, Python {run['machine_info']['python_version']}, {', '.join(versions)}."
    )


def in_units(seconds: float) -> str:
    """A time as people write it."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def write_into(page: Path, text: str) -> None:
    """Put ``text`` between the markers of a page.

    Raises:
        ValueError: if the page lacks them.
    """
    before = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"Expected {page} to hold the lines {BEGIN} and {END}")
    page.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", before), encoding="utf-8")


def draw(measured: list[Measured], path: Path) -> None:
    """Bars of ours and the peers, and the growth curves, both on log scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    claims = claims_of(measured)
    for row, claim in enumerate(reversed(claims)):
        left.barh(row + 0.2, claim.peer.median, 0.4, color="#b0b7c3", label="peer" if row == 0 else None)
        left.barh(row - 0.2, claim.ours.median, 0.4, color="#1f6feb", label="cleval-tm" if row == 0 else None)
        left.text(claim.peer.median, row + 0.2, f" {claim.ratio:,.0f} x", va="center")
    left.set(xscale="log", xlabel="seconds, less is better", title="The same work in the same run")
    left.set_yticks(range(len(claims)), [claim.name.replace(", ", "\n") for claim in reversed(claims)])
    left.margins(x=0.15)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    for one in measured:
        if "words" in one.figures and "seconds" in one.figures:
            slope = one.figures["exponent_of_time"]
            label = f"{one.what.split(':')[-1].strip() if one.role == 'ours' else 'cleval 0.1.1'}: exponent {slope:.2f}"
            right.plot(one.figures["words"], one.figures["seconds"], "o-", label=label)
    right.set(xscale="log", yscale="log", xlabel="words in one image", ylabel="seconds", title="Growth")
    right.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="what --benchmark-json wrote")
    parser.add_argument(
        "--into", type=Path, help="a page with the markers; without it the tables are printed"
    )
    parser.add_argument("--chart", type=Path, help="a PNG to draw")
    options = parser.parse_args(arguments)
    try:
        run, measured = read(options.run)
        text = tables(run, measured)
        if options.into is None:
            print(text)
        else:
            write_into(options.into, text)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    if options.chart is not None:
        draw(measured, options.chart)


if __name__ == "__main__":
    main()
