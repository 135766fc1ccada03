"""Compare two runs of the benchmarks and fail where a ratio to a peer has got worse, beyond noise.

Absolute times differ from machine to machine and from hour to hour; ratios to a peer in the same run do not,
so they alone are judged. In a project's CI::

    pytest benchmarks --benchmark-json new.json
    python -m benchmarks.compare baseline.json new.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.report import Claim, claims_of, read


def lost(old: Claim, new: Claim) -> float:
    """Share of the ratio that was lost, 0 where none was."""
    return max(1.0 - new.ratio / old.ratio, 0.0)


def compare(old_path: Path, new_path: Path, tolerance: float) -> tuple[list[str], bool]:
    """A line for each claim in both runs, and whether any of them lost more than ``tolerance``.

    Raises:
        ValueError: if a file is no run, or the runs share no claim.
    """
    old = {claim.name: claim for claim in claims_of(read(old_path)[1])}
    new = {claim.name: claim for claim in claims_of(read(new_path)[1])}
    shared = [name for name in old if name in new]
    if not shared:
        raise ValueError(
            f"{old_path} and {new_path} have no claim with a peer in common: was the peer installed?"
        )
    lines = []
    failed = False
    for name in shared:
        worse = lost(old[name], new[name])
        failed |= worse > tolerance
        verdict = f"WORSE by {worse:.0%}" if worse > tolerance else "ok"
        lines.append(f"{name}: {old[name].ratio:,.1f} x -> {new[name].ratio:,.1f} x  {verdict}")
    lines += [f"{name}: not in the new run" for name in old if name not in new]
    return lines, failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=0.25, help="share of a ratio that noise may take, 0.25 by default"
    )
    options = parser.parse_args(arguments)
    try:
        lines, failed = compare(options.old, options.new, options.tolerance)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
