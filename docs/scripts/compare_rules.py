"""Prints the table of docs/rules.md: the three rule sets on the same files, side by side.

python docs/scripts/compare_rules.py FOLDER

FOLDER holds the published ground truth and results; ``reference.json`` in it says which belong together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cleval_tm import evaluate
from cleval_tm.io import pair, read_icdar
from cleval_tm.io.formats import Request, load

NAMES = {
    "eval_doc_v1_kr": "documents (KR)",
    "IC13_self": "ICDAR 2013, the truth itself",
    "IC15_real_detections": "ICDAR 2015, a real detector",
    "IC15_perturbed": "ICDAR 2015, perturbed",
    "TotalText_perturbed": "TotalText polygons, perturbed",
}


def table(folder: Path) -> str:
    """H-means of each data set and rule set as a Markdown table."""
    reference = json.loads((folder / "reference.json").read_text())
    lines = [
        "| files | kind | `v2023` | `v2020` | `upstage` | `upstage`, image mean |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in NAMES.items():
        case = reference[key]
        box_type = case["box_type"].lower()
        gt = read_icdar(folder / case["gt"], box_type)
        reading, found = load(folder / case["res"], Request(box_type=box_type))
        preds, target = pair(gt, reading.images)
        scores = {
            rules: evaluate(preds, target, rules, e2e=bool(found.text)).scores()
            for rules in ("v2023", "v2020")
        }
        # the fork reads polygons alone: without texts nothing is ignored, and characters are pseudo characters
        bare = [
            [{k: v for k, v in image.items() if k != "texts"} for image in side] for side in (preds, target)
        ]
        fork = evaluate(*bare, "upstage", e2e=False).scores()
        for kind, label in (("det", "detection"), ("e2e", "end-to-end")):
            if f"{kind}_hmean" not in scores["v2023"]:
                continue
            cells = [f"{scores[rules][f'{kind}_hmean']:.4f}" for rules in scores]
            cells += [f"{fork[mean + 'det_hmean']:.4f}" if kind == "det" else "" for mean in ("", "mean_")]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(table(Path(sys.argv[1])))
