"""The published rule sets as data: one row of options each, no ``if name == ...`` anywhere else."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

_TEXT_UNITS = ("codepoint", "grapheme")
_NORMALIZATIONS = (None, "NFC", "NFKC", "width")
_POLYGON_STYLES = ("v2023", "v2020", "upstage")


@dataclass(frozen=True)
class CLEvalRules:
    """What a run of CLEval counts, and how: a frozen row of options.

    Make one with :meth:`v2023`, :meth:`v2020`, :meth:`upstage` or :meth:`named`; each takes changes to
    its fields. The first block of fields is the user's to change; the second block holds the differences
    between the published implementations.

    Args:
        name: the published rule set that the row started from.
        ap_constraint: area precision from which a detection counts as touching a word, 0 to 1.
        case_sensitive: ``False`` upper-cases both texts first (``str.upper``).
        recall_granularity_weight: penalty per split, at least 0; applied to sums, never to counts.
        precision_granularity_weight: penalty per merge, at least 0; applied to sums, never to counts.
        vertical_aspect_ratio_thresh: a quad with width / height below it holds vertical text.
        max_detections: only the first so many detections of an image count; ``None`` for all.
        text_unit: what a character is: ``"codepoint"`` or ``"grapheme"`` (cluster, Unicode UAX #29).
        normalization: applied to both texts first: ``None``, ``"NFC"``, ``"NFKC"`` or ``"width"``
            (folds full-width and half-width forms, nothing else).
        ap_float32: area precision is rounded to float32 before it is compared (else float64).
        ignore_strictly: a detection is ignored above the constraint, not from it on.
        aspect_by_height: vertical text and the characters of a false positive go by height / width, not width /
            height.
        pseudo_length_cap: most pseudo characters of one shape.
        polygons: whose geometry shapes that are no quads have: ``"v2023"`` (the generalised quad),
            ``"v2020"`` (unsnapped, truncated divisions, open containment) or ``"upstage"`` (every shape is
            a snapped polygon, its aspect that of the minimum-area rectangle).
        lcs_prefers_left: among several longest common subsequences, left only if strictly longer.
        counts_hashes_as_pseudo: the letters of a detection whose text is ``###`` are a run of ``#`` of its pseudo
            length, as an ignored word's are.
        set_order: words are walked in the order of a Python ``set`` of their indices (else ascending).
        clamp_per_image: corpus scores clamp (true positives - penalty) at 0 in each image, then sum.
        float32_image_scores: an image's own scores are rounded to float32.

    Raises:
        ValueError: if a value is out of its range; the message names the argument, what was expected and
            what came.

    Example:
        >>> from cleval_tm import CLEvalRules
        >>> CLEvalRules.v2023(case_sensitive=False).case_sensitive
        False
        >>> CLEvalRules.named("v2020").ap_constraint
        0.5

    Source:
        CLEval (Baek et al., 2020, arXiv:2006.06244); ``cleval`` 0.1.1; the scripts of 2020.
    """

    name: str = "v2023"
    ap_constraint: float = 0.3
    case_sensitive: bool = True
    recall_granularity_weight: float = 1.0
    precision_granularity_weight: float = 1.0
    vertical_aspect_ratio_thresh: float = 0.5
    max_detections: int | None = None
    text_unit: str = "codepoint"
    normalization: str | None = None

    ap_float32: bool = True
    ignore_strictly: bool = False
    aspect_by_height: bool = False
    pseudo_length_cap: int = 10
    polygons: str = "v2023"
    lcs_prefers_left: bool = False
    counts_hashes_as_pseudo: bool = True
    set_order: bool = True
    clamp_per_image: bool = False
    float32_image_scores: bool = False

    def __post_init__(self) -> None:
        _expect(self.name in _NAMED, "name", f"one of {', '.join(_NAMED)}", self.name)
        for field in ("ap_constraint", "vertical_aspect_ratio_thresh"):
            _expect_number(field, getattr(self, field))
        _expect(self.ap_constraint <= 1, "ap_constraint", "a number from 0 to 1", self.ap_constraint)
        for field in ("recall_granularity_weight", "precision_granularity_weight"):
            _expect_number(field, getattr(self, field))
        for field in _BOOLEANS:
            value = getattr(self, field)
            _expect(isinstance(value, bool), field, "True or False", value)
        _expect(
            self.max_detections is None or (_is_int(self.max_detections) and self.max_detections > 0),
            "max_detections",
            "None or an int above 0",
            self.max_detections,
        )
        _expect(
            _is_int(self.pseudo_length_cap) and self.pseudo_length_cap > 0,
            "pseudo_length_cap",
            "an int above 0",
            self.pseudo_length_cap,
        )
        _expect(self.text_unit in _TEXT_UNITS, "text_unit", f"one of {_TEXT_UNITS}", self.text_unit)
        _expect(
            self.normalization in _NORMALIZATIONS,
            "normalization",
            f"one of {_NORMALIZATIONS}",
            self.normalization,
        )
        _expect(self.polygons in _POLYGON_STYLES, "polygons", f"one of {_POLYGON_STYLES}", self.polygons)

    @classmethod
    def v2023(cls, **changes: Any) -> CLEvalRules:
        """The official package ``cleval`` 0.1.1 of October 2023: the default."""
        return cls.named("v2023", **changes)

    @classmethod
    def v2020(cls, **changes: Any) -> CLEvalRules:
        """The official scripts of 2020, with which the paper's tables were made (ap constraint 0.5)."""
        return cls.named("v2020", **changes)

    @classmethod
    def upstage(cls, **changes: Any) -> CLEvalRules:
        """The fork of the Upstage AI Lab receipt competition: polygons alone, no text."""
        return cls.named("upstage", **changes)

    @classmethod
    def named(cls, name: str, **changes: Any) -> CLEvalRules:
        """The published rule set called ``name``, with ``changes`` to its fields."""
        _expect(name in _NAMED, "rules", f"one of {', '.join(_NAMED)}, or a CLEvalRules", name)
        known = {field.name for field in fields(cls)} - {"name"}
        for change in changes:
            if change not in known:
                raise TypeError(
                    f"CLEvalRules has no field {change!r}; its fields are {', '.join(sorted(known))}"
                )
        return cls(name=name, **{**_NAMED[name], **changes})

    @classmethod
    def of(cls, rules: str | CLEvalRules) -> CLEvalRules:
        """``rules`` itself, or the published rule set of that name."""
        return rules if isinstance(rules, CLEvalRules) else cls.named(rules)

    def replace(self, **changes: Any) -> CLEvalRules:
        """A copy with ``changes``."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """Sixteen hex digits that are equal exactly where every field is."""
        text = repr(sorted(self.to_dict().items()))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_NAMED: dict[str, dict[str, Any]] = {
    "v2023": {},
    "v2020": {
        "ap_constraint": 0.5,
        "ap_float32": False,
        "ignore_strictly": True,
        "aspect_by_height": True,
        "polygons": "v2020",
        "lcs_prefers_left": True,
        "counts_hashes_as_pseudo": False,
        "set_order": False,
        "clamp_per_image": True,
    },
    "upstage": {
        "max_detections": 500,
        "pseudo_length_cap": 100,
        "polygons": "upstage",
        "float32_image_scores": True,
    },
}
_BOOLEANS = (
    "case_sensitive",
    "ap_float32",
    "ignore_strictly",
    "aspect_by_height",
    "lcs_prefers_left",
    "counts_hashes_as_pseudo",
    "set_order",
    "clamp_per_image",
    "float32_image_scores",
)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _expect(holds: bool, argument: str, expected: str, came: object) -> None:
    if not holds:
        raise ValueError(f"Expected argument `{argument}` to be {expected} but got {came!r}")


def _expect_number(argument: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(is_number and math.isfinite(value) and value >= 0, argument, "a finite number from 0 on", value)  # type: ignore[arg-type, operator]
