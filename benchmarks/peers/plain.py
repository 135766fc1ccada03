"""CLEval written down once more, plainly and slowly: loops over words and detections, shapely for areas.

It shares nothing with the kernels but the definition, so it serves twice: as the peer of the benchmarks (what
one would write with shapely in an afternoon), and as the second opinion of the fuzz tests for the rule sets
and shapes that no published package runs on.

:func:`count_image` takes one prediction and one target as :func:`cleval_tm.evaluate` does and returns the
counts of that image by name.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.plain_shapes import XY, Shape, scale
from cleval_tm.counts import COUNTS
from cleval_tm.rules import CLEvalRules


def shapes_of(image: dict[str, Any], rules: CLEvalRules) -> list[tuple[list[XY], bool]]:
    """(points, is it a quad) of each shape of an image."""
    if image.get("boxes") is not None:
        boxes = np.asarray(image["boxes"], dtype=np.float64).reshape(-1, 4).tolist()
        rings = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes]
        as_polygons = False
    else:
        given = image["polygons"]
        as_polygons = isinstance(given, list)
        if as_polygons or np.ndim(given) == 3:
            arrays = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in given]
        else:
            arrays = [np.asarray(row, dtype=np.float64).reshape(-1, 2) for row in given]
        rings = [[(x, y) for x, y in ring.tolist()] for ring in arrays]
    if image.get("box_type") is not None:
        as_polygons = image["box_type"] == "poly"
    polygons_only = rules.polygons == "upstage" or (rules.polygons == "v2020" and as_polygons)
    return [(ring, len(ring) == 4 and not polygons_only) for ring in rings]


def characters(text: str, rules: CLEvalRules) -> list[str]:
    if rules.normalization == "width":
        text = "".join(
            unicodedata.normalize("NFKC", c) if unicodedata.east_asian_width(c) in "FH" else c for c in text
        )
    elif rules.normalization is not None:
        text = unicodedata.normalize(rules.normalization, text)  # type: ignore[arg-type]
    if not rules.case_sensitive:
        text = text.upper()
    if rules.text_unit == "grapheme":
        import regex

        return regex.findall(r"\X", text)
    return list(text)


def read_side(image: dict[str, Any], rules: CLEvalRules, *, is_target: bool) -> list[Shape]:
    texts, labels, ignore = (image.get(key) for key in ("texts", "orientation_labels", "ignore"))
    shapes = []
    for i, (points, quad) in enumerate(shapes_of(image, rules)):
        if rules.polygons == "upstage" and len(points) < 4:
            continue
        text = None if texts is None else texts[i]
        if not is_target:
            ignored = False
        elif ignore is not None:
            ignored = bool(ignore[i])
        else:
            ignored = text == "###"
        shape = Shape(points, quad, rules, ignored=ignored, label=None if labels is None else labels[i])
        hashes = not is_target and text == "###" and rules.counts_hashes_as_pseudo
        if hashes or (is_target and (text is None or ignored)):
            shape.text = ["#"] * shape.pseudo_length()
        elif text is not None:
            shape.text = characters(text, rules)
        shapes.append(shape)
    return shapes if is_target else shapes[: rules.max_detections]


@dataclass
class Pairs:
    """Everything about pairs of words and detections: (G, D) each."""

    ap: list[list[Any]]
    hits: list[list[list[int]]]  # the characters of g that lie in d, ascending

    def touches(self, g: int, d: int, constraint: Any) -> bool:
        return self.ap[g][d] >= constraint and len(self.hits[g][d]) > 0


def compare(gts: list[Shape], dets: list[Shape], ignored: set[int], rules: CLEvalRules) -> Pairs:
    real = np.float32 if rules.ap_float32 else np.float64
    pairs = Pairs([], [])
    for g, gt in enumerate(gts):
        region = gt.region
        if g in ignored:
            for other, word in enumerate(gts):
                if other not in ignored and not word.region.is_empty:
                    region = region.difference(word.region)
        centres = gt.centres()
        pairs.ap.append(
            [
                real(region.intersection(det.region).area / det.area) if det.area > 0 else real(0)
                for det in dets
            ]
        )
        pairs.hits.append([[k for k, c in enumerate(centres) if det.contains(c)] for det in dets])
    return pairs


def ignored_detections(pairs: Pairs, ignored: list[int], n_det: int, rules: CLEvalRules) -> set[int]:
    real = np.float32 if rules.ap_float32 else np.float64
    constraint = real(rules.ap_constraint)

    def reaches(value: Any) -> bool:
        return bool(value > constraint if rules.ignore_strictly else value >= constraint)

    result = set()
    for d in range(n_det):
        total = real(0)
        for g in ignored:
            if pairs.hits[g][d]:
                total = real(total + pairs.ap[g][d])
        if ignored and (any(reaches(pairs.ap[g][d]) for g in ignored) or reaches(total)):
            result.add(d)
    return result


def match(
    pairs: Pairs, gt_valid: list[int], det_valid: list[int], n_gt: int, n_det: int, rules: CLEvalRules
) -> set[tuple[int, int]]:
    constraint = (np.float32 if rules.ap_float32 else np.float64)(rules.ap_constraint)
    touch = {(g, d) for g in range(n_gt) for d in range(n_det) if pairs.touches(g, d, constraint)}
    matched = set()
    for g, d in touch:
        alone = all((g, other) not in touch for other in range(n_det) if other != d) and all(
            (other, d) not in touch for other in range(n_gt) if other != g
        )
        if alone and g in gt_valid and d in det_valid:
            matched.add((g, d))
    for g in gt_valid:
        split = [(g, d) for d in det_valid if (g, d) in touch]
        if len(split) >= 2:
            matched.update(split)
    for d in det_valid:
        merged = [g for g in gt_valid if pairs.hits[g][d]]
        if len(merged) >= 2 and sum(float(pairs.ap[g][d]) for g in merged) >= rules.ap_constraint:
            matched.update((g, d) for g in merged)
    return matched


def longest_common_subsequence(left: list[str], right: list[str], rules: CLEvalRules) -> list[str]:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    letters: list[str] = []
    i, j = len(left), len(right)
    while i and j:
        up, back = table[i - 1][j], table[i][j - 1]
        if left[i - 1] == right[j - 1]:
            letters.append(left[i - 1])
            i, j = i - 1, j - 1
        elif (not back > up) if rules.lcs_prefers_left else up > back:
            i -= 1
        else:
            j -= 1
    return letters[::-1]


def reading_order(matched: list[int], hits: list[list[int]], n_chars: int) -> list[int]:
    """The detections of one word in the order in which its characters meet them."""
    left, ordered = list(matched), []
    for k in range(n_chars):
        if len(left) == 1:
            break
        found = next((d for d in left if k in hits[d]), None)
        if found is not None:
            ordered.append(found)
            left.remove(found)
    return ordered + left[:1]


def end_to_end(
    gts: list[Shape],
    dets: list[Shape],
    pairs: Pairs,
    matched: set[tuple[int, int]],
    gt_walk: list[int],
    det_valid: list[int],
    rules: CLEvalRules,
) -> dict[str, int]:
    remaining = [list(det.text or ()) for det in dets]
    true_positives = 0
    for g in gt_walk:
        own = [d for d in det_valid if (g, d) in matched]
        if not own:
            continue
        text = gts[g].text or []
        ordered = reading_order(own, pairs.hits[g], len(text))
        found = longest_common_subsequence(text, [c for d in ordered for c in remaining[d]], rules)
        true_positives += len(found)
        for letter in found:
            remaining[next(d for d in ordered if letter in remaining[d])].remove(letter)
    chars_det = sum(len(dets[d].text or ()) for d in det_valid)
    return {
        "e2e_tp": true_positives,
        "e2e_chars_det": chars_det,
        "e2e_fp_chars": chars_det - true_positives,
        "recognition_chars": sum(len(dets[d].text or ()) for d in {d for _, d in matched}),
    }


def count_image(
    pred: dict[str, Any],
    target: dict[str, Any],
    rules: CLEvalRules,
    *,
    e2e: bool = True,
    scale_bin: tuple[float, float] | None = None,
) -> dict[str, int]:
    """Counts of one image by name.

    Args:
        pred: detections, as for :func:`cleval_tm.evaluate`.
        target: ground truth.
        rules: the rule set.
        e2e: whether the end-to-end columns are counted.
        scale_bin: (low, high): words of another scale are ignored; the target needs ``"image_size"``.
    """
    gts, dets = read_side(target, rules, is_target=True), read_side(pred, rules, is_target=False)
    low, high = (-math.inf, math.inf) if scale_bin is None else scale_bin
    ignored = set()
    for g, gt in enumerate(gts):  # one by one: how a set grew shows in its order
        outside = scale_bin is not None and not low <= scale(gt.points, target["image_size"]) <= high
        if gt.ignored or outside:
            ignored.add(g)
    valid_set = set(range(len(gts))) - ignored
    gt_valid = sorted(valid_set)
    pairs = compare(gts, dets, ignored, rules)
    ignored_walk = list(ignored) if rules.set_order else sorted(ignored)
    det_ignored = ignored_detections(pairs, ignored_walk, len(dets), rules)
    det_valid = [d for d in range(len(dets)) if d not in det_ignored]
    matched = match(pairs, gt_valid, det_valid, len(gts), len(dets), rules)

    of_det = {d: [g for g in gt_valid if (g, d) in matched] for d in det_valid}
    of_gt = {g: [d for d in det_valid if (g, d) in matched] for g in gt_valid}
    claims = [(g, k) for d in det_valid for g in of_det[d] for k in pairs.hits[g][d]]
    merges = [len(words) for words in of_det.values() if len(words) > 1]
    splits = [len(parts) for parts in of_gt.values() if len(parts) > 1]
    alone = [d for d in det_valid if not of_det[d]]
    fp_chars = sum(dets[d].false_positive_chars() for d in alone)
    labels = [
        (gts[g].label, dets[d].label)
        for g, d in matched
        if gts[g].label is not None and dets[d].label is not None
    ]
    counts = {
        "chars_gt": sum(len(gts[g].text or ()) for g in gt_valid),
        "chars_det": len(claims) + fp_chars,
        "det_tp": len(set(claims)),
        "recall_granularity": sum(splits) - len(splits),
        "precision_granularity": sum(merges) - len(merges),
        "det_fp_chars": fp_chars,
        "splits": len(splits),
        "merges": len(merges),
        "overlaps": len(claims) - len(set(claims)),
        "false_positives": len(alone),
        "orientation_pairs": len(labels),
        "orientation_correct": sum(a == b for a, b in labels),
        "words_gt": len(gt_valid),
        "words_det": len(det_valid),
        "ignored_gt": len(ignored),
        "ignored_det": len(det_ignored),
        "irregular": sum(shape.irregular for shape in gts + dets),
    }
    if e2e:
        gt_walk = list(valid_set) if rules.set_order else gt_valid
        counts |= end_to_end(gts, dets, pairs, matched, gt_walk, det_valid, rules)
    return {name: int(counts.get(name, 0)) for name in COUNTS}
