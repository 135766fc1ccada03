"""What ``cleval-tm validate`` finds: in each side, between the two, and in the truth's own score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cleval_tm.cli.sides import by_key, requests, told
from cleval_tm.io.formats import Request, load
from cleval_tm.io.icdar import Image

if TYPE_CHECKING:
    from cleval_tm.evaluation import Evaluation

_OVERLAP = 0.1


@dataclass
class Findings:
    """Lines to print, and whether anything keeps the files from being evaluated."""

    show: int
    lines: list[str] = field(default_factory=list)
    broken: bool = False

    def add(self, title: str, examples: list[str], *, breaks: bool = False) -> None:
        """A finding with its first examples; nothing where there are none."""
        if not examples:
            return
        self.broken |= breaks
        self.lines.append(f"  {'error' if breaks else 'found'}: {title}: {len(examples):,}")
        self.lines += [f"    {example}" for example in examples[: self.show]]
        if len(examples) > self.show:
            self.lines.append(f"    ... and {len(examples) - self.show:,} more")


def inspect(
    gt_path: Path, result_path: Path | None, request: Request, file_format: str, rules: str, show: int
) -> tuple[list[str], bool]:
    """Everything that is odd about the files.

    Args:
        gt_path: ground truth.
        result_path: predictions, if any.
        request: how to read them.
        file_format: the value of ``--format``.
        rules: name of the rule set that the ground truth is scored by, against itself.
        show: how many examples of each finding to show.

    Returns:
        lines to print, and whether the files cannot be evaluated as they are.
    """
    gt_request, result_request = requests(file_format, request)
    findings = Findings(show)
    gt, gt_request = _side(gt_path, gt_request, findings)
    _score_of_truth(gt, rules, findings)
    if result_path is not None:
        result, result_request = _side(result_path, result_request, findings)
        if gt_request.format != result_request.format:
            gt, result = by_key(gt, gt_path), by_key(result, result_path)
        findings.lines.append("both sides")
        findings.add("images that the ground truth lacks", [i for i in result if i not in gt], breaks=True)
        findings.add("images without an entry in the result", [i for i in gt if i not in result])
        if findings.lines[-1] == "both sides":
            findings.lines.append("  the same images")
    verdict = (
        "The files cannot be evaluated as they are." if findings.broken else "The files can be evaluated."
    )
    return [*findings.lines, verdict], findings.broken


def _side(path: Path, request: Request, findings: Findings) -> tuple[dict[str, Image], Request]:
    """Reads one side and looks at it by itself."""
    reading, request = load(path, request)
    findings.lines.append(told(path, reading, request))
    before = len(findings.lines)
    findings.add("bad lines", reading.problems, breaks=True)
    findings.add("files passed over", reading.skipped_files)
    images = reading.images
    findings.add("images without words", [name for name, image in images.items() if not len(_shapes(image))])
    findings.add("words without text", list(_textless(images)))
    findings.add("duplicates", list(_duplicates(images)))
    findings.add("irregular shapes (repeated points, no area, edges that cross)", list(_irregular(images)))
    if len(findings.lines) == before:
        findings.lines.append("  nothing odd")
    return images, request


def _shapes(image: Image) -> Any:
    return image["boxes"] if "boxes" in image else image["polygons"]


def _textless(images: Mapping[str, Image]) -> Iterable[str]:
    for name, image in images.items():
        for number, text in enumerate(image.get("texts", ()), start=1):
            if not text.strip():
                yield f"{name}: word {number}"


def _duplicates(images: Mapping[str, Image]) -> Iterable[str]:
    for name, image in images.items():
        shapes = _shapes(image)
        first: dict[tuple[bytes, str | None], int] = {}
        for index, shape in enumerate(shapes):
            key = (
                np.asarray(shape, np.float64).tobytes(),
                image["texts"][index] if "texts" in image else None,
            )
            if key in first:
                yield f"{name}: {_word(image, index)} repeats word {first[key] + 1}"
            else:
                first[key] = index


def _irregular(images: Mapping[str, Image]) -> Iterable[str]:
    evaluation = _against_itself(images, "v2023", e2e=False)
    for i, image in enumerate(images.values()):
        if evaluation.counts[i, -1]:
            for index in evaluation.match(i).irregular_gt:
                points = np.asarray(_shapes(image)[index]).reshape(-1, 2).tolist()
                shown = " ".join(f"{x:g},{y:g}" for x, y in points[:8]) + (" ..." if len(points) > 8 else "")
                yield f"{evaluation.image_ids[i]}: {_word(image, index)} at {shown}"


def _against_itself(images: Mapping[str, Image], rules: str, *, e2e: bool) -> Evaluation:
    from cleval_tm.cli.compiling import announcing_compilation, compile_ahead
    from cleval_tm.evaluation import evaluate

    named = [{**image, "image_id": name} for name, image in images.items()]
    with announcing_compilation():
        compile_ahead()
        return evaluate(named, named, rules, e2e=e2e)


def _score_of_truth(images: Mapping[str, Image], rules: str, findings: Findings) -> None:
    """The score of the ground truth against itself, and which overlapping words keep it below 1."""
    from cleval_tm.rules import CLEvalRules

    texts = any("texts" in image for image in images.values())
    evaluation = _against_itself(images, rules, e2e=texts)
    scores = evaluation.scores()
    kinds = {"det_hmean": "detection", "e2e_hmean": "end-to-end"}
    told = ", ".join(f"{label} H-mean {scores[name]:.4f}" for name, label in kinds.items() if name in scores)
    findings.lines.append(f"the ground truth against itself, rules {rules}: {told}")
    constraint = CLEvalRules.named(rules).ap_constraint
    overlaps, costs = [], []
    for i, (name, image) in enumerate(images.items()):
        match = evaluation.match(i)
        ignored = set(match.ignored_gt)
        for pair in match.pairs:
            if pair.gt == pair.det or (not pair.relations and {pair.gt, pair.det} & ignored):
                continue
            told = (
                f"{name}: {_word(image, pair.gt)} covers {pair.area_precision:.0%} of "
                f"{_word(image, pair.det)}, which holds {len(pair.characters)} of its characters"
            )
            if pair.relations:
                costs.append((pair.area_precision, f"{told}: taken for a {' and a '.join(pair.relations)}"))
            elif pair.area_precision >= _OVERLAP:
                overlaps.append((pair.area_precision, told))
    findings.add(
        f"overlapping words that cost score (from {constraint:g} of an area on, or in a merge)", _worst(costs)
    )
    findings.add(f"further words that overlap by {_OVERLAP:.0%} of an area or more", _worst(overlaps))
    below = [name for name in kinds if scores.get(name, 1.0) < 1.0]
    empty = evaluation.totals()["chars_gt"] == 0
    if empty:
        findings.lines.append("  no word counts: all are ignored, or have no text")
    elif below and not costs:
        findings.lines.append("  below 1 for words without characters or irregular shapes, not for overlaps")


def _worst(findings: list[tuple[float, str]]) -> list[str]:
    return [told for _, told in sorted(findings, key=lambda finding: -finding[0])]


def _word(image: Image, index: int) -> str:
    text = f" {image['texts'][index]!r}" if "texts" in image else ""
    return f"word {index + 1}{text}"
