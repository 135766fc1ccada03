"""Random images: a fast seeded generator for the long runs, hypothesis strategies for small failing examples.

Both draw what makes CLEval hard: rotated, skewed and vertical quads, words over words, splits, merges and
duplicates, ignored regions over, under and over each other, empty images and texts, many scripts, repeated
letters, negative coordinates, and pseudo characters exactly on the edges of detections.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

Image = dict[str, Any]
Pair = tuple[Image, Image]

ALPHABETS = (
    "ab",
    "aab#",
    "The quick fox",
    "가나다라마\u1100\u1161",
    "日本語ｶﾞＡ１",
    "هذا نصٌّ",
    "हिन्दी",
    "ไทยน้ำ",
    "ßŉǰﬁİı",
    "👍🏽👩‍👩‍👧🇰🇷",
    "e\u0301é̂",
)


# ---------------------------------------------------------------- a seeded generator


class Draw:
    """A few draws from one numpy generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def one_of(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def below(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def count(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


def random_image(seed: int, *, polygons: bool = False, irregular: float = 0.0) -> Pair:
    """One image as (prediction, target).

    Args:
        seed: the same seed draws the same image.
        polygons: shapes of 3 to 40 points as a list, else quads as an (N, 4, 2) array (or boxes).
        irregular: share of the shapes that cross themselves, repeat points or have no area. At 0, quads are
            simple rings with an area after truncation.
    """
    draw = Draw(seed)
    size = draw.one_of(24.0, 60.0, 200.0, 1000.0)
    grid = draw.one_of(1.0, 1.0, 0.5, 0.0)  # 0: any float
    offset = draw.one_of(0.0, 0.0, -size / 2, -2 * size)
    alphabet = draw.one_of(*ALPHABETS)
    words, texts, ignore = [], [], []
    for _ in range(40 if draw.chance(0.03) else draw.one_of(0, 1, 2, 3, 4, 6, 10)):
        length = draw.one_of(0, 1, 1, 2, 3, 4, 5, 8, 13) if draw.chance(0.9) else draw.count(0, 40)
        words.append(_shape(draw, size, max(length, 1), polygons))
        texts.append(_text(draw, alphabet, length))
        ignore.append(draw.chance(0.2))
    _add_ignored_regions(draw, words, texts, ignore, alphabet)
    _add_duplicates(draw, words, texts, ignore)
    dets, det_texts = _detections(draw, size, words, texts, alphabet, polygons)
    words, dets = (
        [_finish(draw, ring + offset, grid, polygons, irregular) for ring in side] for side in (words, dets)
    )
    pred: Image = {"polygons": _packed(dets, polygons), "texts": det_texts}
    target: Image = {"polygons": _packed(words, polygons), "texts": texts}
    if draw.chance(0.5):
        target["ignore"] = np.array(ignore, dtype=bool)
    else:
        target["texts"] = ["###" if skip else text for text, skip in zip(texts, ignore, strict=True)]
    if draw.chance(0.5):
        pred["orientation_labels"] = [draw.one_of("up", "left") for _ in dets]
        target["orientation_labels"] = [draw.one_of("up", "left") for _ in words]
    target["image_size"] = (size, draw.one_of(size, 4 * size))
    return pred, target


def random_images(count: int, first_seed: int = 0, **options: Any) -> tuple[list[Image], list[Image]]:
    """`count` images as (predictions, targets), ready for `evaluate`."""
    pairs = [random_image(first_seed + i, **options) for i in range(count)]
    return [pred for pred, _ in pairs], [target for _, target in pairs]


def _text(draw: Draw, alphabet: str, length: int) -> str:
    return "".join(alphabet[i] for i in draw.rng.integers(len(alphabet), size=length))


def _shape(draw: Draw, size: float, length: int, polygons: bool) -> np.ndarray:
    x, y = draw.below(0, size), draw.below(0, size)
    height = draw.one_of(2.0, 4.0, 10.0, size / 5)
    width = height * length * draw.one_of(0.5, 1.0, 1.0, 2.0)
    if draw.chance(0.15):
        width, height = height, width
    width, height = min(width, size), min(height, size)
    if polygons:
        return _polygon(draw, x, y, width, height)
    box = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    kind = draw.one_of("box", "box", "rotated", "skewed", "turned")
    if kind == "skewed":
        box = box + draw.rng.normal(size=(4, 2)) * min(width, height) * 0.2
    elif kind == "rotated":
        box = _rotated(box, draw.below(-math.pi, math.pi))
    elif kind == "turned":
        box = np.roll(box, draw.count(1, 3), axis=0)
    return box + np.array([x, y])


def _rotated(ring: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return ring @ np.array([[cos, sin], [-sin, cos]])


def _polygon(draw: Draw, x: float, y: float, width: float, height: float) -> np.ndarray:
    kind = draw.one_of("bent", "bent", "bent", "star", "box")
    if kind == "box":
        ring = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    elif kind == "star":
        n = draw.count(3, 40)
        angle = np.sort(draw.rng.random(n)) * 2 * math.pi
        radius = draw.below(0.2, 1) + draw.rng.random(n)
        ring = np.stack([np.cos(angle) * width, np.sin(angle) * height], axis=1) / 2 * radius[:, None]
    else:
        n, bottom = (k := draw.count(2, 19)), k + draw.chance(0.2)
        bend = draw.below(-1, 1) * width / 2
        along, back = np.linspace(0, 1, n), np.linspace(1, 0, bottom)
        top = np.stack([along * width, np.sin(along * math.pi) * bend], axis=1)
        low = np.stack([back * width, np.sin(back * math.pi) * bend + height], axis=1)
        ring = np.concatenate([top, low])
    return (_rotated(ring, draw.below(-math.pi, math.pi)) if draw.chance(0.4) else ring) + np.array([x, y])


def _add_ignored_regions(
    draw: Draw, words: list[np.ndarray], texts: list[str], ignore: list[bool], alphabet: str
) -> None:
    """Boxes over words (a whole line, then another one over it) and inside of words."""
    for _ in range(draw.one_of(0, 0, 0, 1, 2, 3)):
        chosen = [words[i] for i in draw.rng.integers(len(words), size=draw.count(1, 3))] if words else []
        if not chosen:
            return
        points = np.concatenate(chosen)
        low, high = points.min(axis=0), points.max(axis=0)
        grow = draw.one_of(-0.3, 0.0, 0.1, 0.5) * (high - low) + draw.one_of(0.0, 2.0)
        (x0, y0), (x1, y1) = low - grow, high + grow
        words.insert(draw.count(0, len(words)), np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
        texts.append(_text(draw, alphabet, draw.count(0, 6)))
        ignore.insert(draw.count(0, len(ignore)), True)


def _add_duplicates(draw: Draw, words: list[np.ndarray], texts: list[str], ignore: list[bool]) -> None:
    if words and draw.chance(0.15):
        words.append(words[0] + draw.one_of(0.0, 0.0, 1.0))
        texts.append(texts[0])
        ignore.append(draw.chance(0.3))


def _detections(
    draw: Draw, size: float, words: list[np.ndarray], texts: list[str], alphabet: str, polygons: bool
) -> tuple[list[np.ndarray], list[str]]:
    rings: list[np.ndarray] = []
    read: list[str] = []

    def add(ring: np.ndarray, text: str) -> None:
        rings.append(ring)
        read.append(_misread(draw, text, alphabet))

    for i, (ring, text) in enumerate(zip(words, texts, strict=True)):
        kind = draw.one_of("copy", "copy", "jitter", "grown", "split", "merge", "drop", "twice", "cover")
        if kind in ("copy", "twice"):
            add(ring, text)
        if kind in ("jitter", "twice"):
            add(ring + draw.rng.normal(size=ring.shape) * draw.one_of(0.5, 2.0), text)
        if kind == "grown":
            middle = ring.mean(axis=0)
            add((ring - middle) * draw.one_of(0.5, 0.75, 1.5, 2.0, 4.0) + middle, text)
        if kind == "split":
            for part, letters in _parts(draw, ring, text):
                add(part, letters)
        if kind == "merge":
            other = draw.count(0, len(words) - 1)
            add(_hull(np.concatenate([ring, words[other]])), text + texts[other])
        if kind == "cover" and i % 2:
            add(_hull(ring) + draw.rng.normal(size=2), text)
    for _ in range(draw.one_of(0, 0, 1, 3)):
        add(_shape(draw, size, draw.count(1, 12), polygons), _text(draw, alphabet, draw.count(0, 6)))
    order = draw.rng.permutation(len(rings)) if draw.chance(0.5) else range(len(rings))
    return [rings[i] for i in order], [read[i] for i in order]


def _misread(draw: Draw, text: str, alphabet: str) -> str:
    letters = list(text)
    for _ in range(draw.one_of(0, 0, 1, 3)):
        at = draw.count(0, len(letters))
        letters[at : at + draw.count(0, 1)] = _text(draw, alphabet, draw.count(0, 1))
    return "".join(letters)


def _parts(draw: Draw, ring: np.ndarray, text: str) -> list[tuple[np.ndarray, str]]:
    """A word cut across, mostly at the centres of its characters, so that they lie on edges."""
    half = len(ring) // 2
    if half != 2:
        low = ring[half:][::-1]
        at = draw.count(1, max(1, half - 1))
        pieces = [(ring[:half][: at + 1], low[: at + 1]), (ring[:half][at:], low[at:])]
        rings = [np.concatenate([top, bottom[::-1]]) for top, bottom in pieces]
        cut = len(text) // 2
        return [(part, letters) for part, letters in zip(rings, (text[:cut], text[cut:]), strict=True)]
    n = max(len(text), 1)
    cuts = sorted({draw.count(1, 2 * n) / (2 * n) for _ in range(draw.count(1, 3))} | {0.0, 1.0})
    top, low = (ring[0], ring[1] - ring[0]), (ring[3], ring[2] - ring[3])
    return [
        (
            np.array([top[0] + top[1] * a, top[0] + top[1] * b, low[0] + low[1] * b, low[0] + low[1] * a]),
            text[int(a * n) : int(b * n)],
        )
        for a, b in itertools.pairwise(cuts)
    ]


def _hull(points: np.ndarray) -> np.ndarray:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _finish(draw: Draw, ring: np.ndarray, grid: float, polygons: bool, irregular: float) -> np.ndarray:
    ring = np.round(ring / grid) * grid if grid else ring
    if irregular and draw.chance(irregular):
        return _spoiled(draw, ring)
    if irregular or polygons:
        return ring
    return (
        ring if _is_simple_quad(np.trunc(ring)) else _hull(ring) + np.array([[0, 0], [2, 0], [2, 2], [0, 2]])
    )


def _spoiled(draw: Draw, ring: np.ndarray) -> np.ndarray:
    kind = draw.one_of("crossed", "repeated", "flat", "point", "spike", "shuffled")
    if len(ring) < 3:  # half of a triangle that was cut
        return ring
    ring = ring.copy()
    if kind == "crossed":
        ring[[0, 1]] = ring[[1, 0]]
    elif kind == "repeated":
        ring[draw.count(0, len(ring) - 1)] = ring[draw.count(0, len(ring) - 1)]
    elif kind == "flat":
        ring[:, draw.count(0, 1)] = ring[0, 0]
    elif kind == "point":
        ring[:] = ring[0]
    elif kind == "spike":
        ring[2] = ring[1] + (ring[0] - ring[1]) * draw.one_of(0.5, 2.0)
    else:
        ring = draw.rng.permutation(ring)
    return ring


def _is_simple_quad(ring: np.ndarray) -> bool:
    """Whether four points make a ring with an area that neither touches nor crosses itself."""
    signs = [
        np.sign(_turn(ring[i], ring[j], ring[k])) for i, j, k in ((0, 1, 2), (1, 2, 3), (2, 3, 0), (3, 0, 1))
    ]
    negative, positive = sum(s < 0 for s in signs), sum(s > 0 for s in signs)
    return max(negative, positive) >= 3  # two turns each way: the sides cross; three and one: concave


def _turn(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
    return float((q[0] - p[0]) * (r[1] - q[1]) - (q[1] - p[1]) * (r[0] - q[0]))


def _packed(rings: list[np.ndarray], polygons: bool) -> Any:
    return rings if polygons else np.array(rings, dtype=np.float64).reshape(-1, 4, 2)


def image_where_set_order_decides(width: int, widths: tuple[int, int, int, int]) -> Pair:
    """A detection over four ignored words whose float32 ap add up to .3, or just not, by the order of adding.

    The words stand at 2, 8, 10 and 11 among others far away; a Python set of these gives 8, 11, 2, 10.
    """
    ignored = dict(zip((2, 8, 10, 11), widths, strict=True))
    boxes, x = [], 0
    for i in range(12):
        boxes.append([x, 0, x + ignored[i], 10] if i in ignored else [5000 + 50 * i, 0, 5040 + 50 * i, 10])
        x += ignored.get(i, 0)
    target: Image = {
        "boxes": np.array(boxes),
        "texts": ["word"] * 12,
        "ignore": [i in ignored for i in range(12)],
    }
    return {"boxes": np.array([[0, 0, width, 10]]), "texts": ["abc"]}, target


# ---------------------------------------------------------------- hypothesis

_texts = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(alphabet=letters, max_size=8))
_halves = st.integers(-20, 80).map(lambda i: i / 2)
_wholes = st.integers(-10, 40).map(float)


@st.composite
def quads(draw: Any, irregular: bool = False) -> np.ndarray:
    """A quad (4, 2) on whole or half coordinates: a box, turned or skewed; if irregular, any four points."""
    numbers = draw(st.sampled_from((_wholes, _halves)))
    if irregular and draw(st.booleans()):
        return np.array([[draw(numbers), draw(numbers)] for _ in range(4)])
    x, y, width, height = (draw(numbers), draw(numbers), draw(st.integers(2, 30)), draw(st.integers(2, 12)))
    ring = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    ring = np.roll(ring, draw(st.integers(0, 3)), axis=0)
    skewed = ring + np.array([[draw(st.integers(-4, 4)), draw(st.integers(-4, 4))] for _ in range(4)])
    return skewed if irregular or _is_simple_quad(np.trunc(skewed)) else ring


@st.composite
def polygons(draw: Any) -> np.ndarray:
    """Any ring of 1 to 12 points on whole or half coordinates."""
    numbers = draw(st.sampled_from((_wholes, _halves)))
    return np.array([[draw(numbers), draw(numbers)] for _ in range(draw(st.integers(1, 12)))])


@st.composite
def images(draw: Any, shapes: st.SearchStrategy[np.ndarray] | None = None) -> Pair:
    """One image as (prediction, target): detections are words moved, cut or joined, or anything."""
    shapes = quads() if shapes is None else shapes
    words = draw(st.lists(st.tuples(shapes, _texts, st.booleans()), max_size=5))
    dets = draw(st.lists(st.tuples(shapes, _texts), max_size=3))
    for ring, text, _ in words:
        kind = draw(st.sampled_from(("none", "copy", "left half", "both halves", "moved")))
        if kind == "moved":
            dets.append((ring + draw(st.integers(-3, 3)), text))
        elif kind == "copy" or (kind != "none" and len(ring) != 4):
            dets.append((ring, text))
        elif kind != "none":
            top, low = ring[:2].mean(axis=0), ring[2:].mean(axis=0)
            pieces = [np.array([ring[0], top, low, ring[3]]), np.array([top, ring[1], ring[2], low])]
            pieces = [piece if _is_simple_quad(np.trunc(piece)) else ring for piece in pieces]
            dets += [(piece, text[i::2]) for i, piece in enumerate(pieces[: 1 + (kind == "both halves")])]
    as_list = any(len(ring) != 4 for ring, *_ in [*words, *dets])

    def packed(rings: list[np.ndarray]) -> Any:
        return rings if as_list else np.array(rings, dtype=np.float64).reshape(-1, 4, 2)

    target: Image = {
        "polygons": packed([ring for ring, _, _ in words]),
        "texts": [text for _, text, _ in words],
    }
    if draw(st.booleans()):
        target["ignore"] = np.array([skip for *_, skip in words], dtype=bool)
    return {"polygons": packed([ring for ring, _ in dets]), "texts": [text for _, text in dets]}, target
