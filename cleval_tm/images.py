"""Images as users hand them in -> flat columns: the only room that sees dicts, lists and tensors."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.kernels.characters import POLYGON, QUAD, SNAPPED, TRUNCATED, TRUNCATED_POINTS
from cleval_tm.rules import CLEvalRules
from cleval_tm.shapes import Shapes
from cleval_tm.tensors import Image, as_array, on_host
from cleval_tm.text import Texts, letters_of, transformed

ImageId = str | int | None
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IGNORED_TEXT = "###"
_POLYGON_STYLE = {"v2023": POLYGON, "v2020": TRUNCATED, "upstage": SNAPPED}
_BOX_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]
_labels: dict[Any, int] = {}


def starts_of(lengths: npt.NDArray[Any]) -> Ints:
    """Where each of some runs starts, and the last one ends: (n + 1,) of their lengths (n,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


class Columns:
    """Both sides' images gathered into flat arrays, a column each: S shapes of P points, detections first."""

    def __init__(
        self, rules: CLEvalRules, *, preds: Sequence[Image] = (), target: Sequence[Image] = ()
    ) -> None:
        self.rules = rules
        self.images = on_host([*preds, *target])
        self.first_target = len(preds)
        self.given_sizes: list[int] = []
        self.kept: npt.NDArray[np.bool_] | None = None
        self.source: Ints | None = None
        self.quads_alone = False
        points, lengths, quads = self._gather_shapes()
        self.image_start: Ints = np.array([0, *itertools.accumulate(self.given_sizes)], np.int64)
        self.points: Floats = np.concatenate(points, dtype=np.float64) if points else np.empty((0, 2))
        self.ring_start, self.style = self._rings_and_styles(lengths, quads)
        if (preds and rules.max_detections is not None) or (
            not self.quads_alone and len(self.style) and np.diff(self.ring_start).min() < 4
        ):
            self._refuse_bad_points()
            self._leave_out()
            self._complete_short_polygons()
        self.first_word = int(self.image_start[self.first_target])

    def place(self, i: int) -> str:
        """Where image ``i`` came from."""
        return f"preds[{i}]" if i < self.first_target else f"target[{i - self.first_target}]"

    def where(self, i: int) -> str:
        """How errors name image ``i``."""
        image_id = self.images[i].get("image_id")
        return self.place(i) + ("" if image_id is None else f" (image_id {image_id!r})")

    def shapes(self) -> Shapes:
        """The shapes, measured."""
        shapes = Shapes(self.image_start, self.points, self.ring_start, self.style)
        if not shapes.finite:
            self._refuse_bad_points()
        return shapes

    def image_ids(self) -> list[ImageId]:
        """The id of each image of the ground truth, or None."""
        ids: list[ImageId] = []
        for i, image in enumerate(self.images[self.first_target :], self.first_target):
            image_id = image.get("image_id")
            if image_id is not None and not isinstance(image_id, str | int):
                try:  # numpy's and torch's integers
                    image_id = image_id.__index__()
                except (AttributeError, TypeError):
                    raise TypeError(
                        f"Expected {self.place(i)}['image_id'] to be a str or an int but got {image_id!r}"
                    ) from None
            ids.append(image_id)
        return ids

    def texts(self) -> tuple[list[list[str]], list[bool]]:
        """Each image's texts, "" for each shape where it brings none; and whether it does."""
        texts: list[list[str]] = []
        given = []
        for i, (image, size) in enumerate(zip(self.images, self.given_sizes, strict=True)):
            mine = image.get("texts")
            given.append(mine is not None)
            if mine is None:
                mine = [""] * size
            self._must_count(i, "texts", len(mine))
            texts.append(mine if type(mine) is list else list(mine))
        if self.kept is not None:
            texts = [
                list(itertools.compress(mine, self.kept[self.given_start[i] : self.given_start[i + 1]]))
                for i, mine in enumerate(texts)
            ]
        return texts, given

    def letters(self, texts: list[list[str]]) -> Texts:
        """The letters of the shapes' texts, see :func:`cleval_tm.text.letters_of`."""
        try:
            return letters_of(transformed(texts, self.rules), self.image_start, self.rules)
        except (AttributeError, TypeError):
            self._refuse_non_texts(texts)
            raise

    def must_have_texts(self) -> None:
        """Raise unless every image with shapes brings texts."""
        for i, image in enumerate(self.images):
            if image.get("texts") is None and self.given_sizes[i]:
                raise ValueError(
                    f"Expected {self.where(i)} to bring 'texts' for its {self.given_sizes[i]} shapes but it has none; "
                    "pass e2e=False to score detection alone"
                )

    def ignored(self, texts: list[list[str]], letters: Texts) -> npt.NDArray[np.bool_]:
        """(S,) which words do not count: those flagged, or, in images without flags, those whose text is ###."""
        if self.rules.normalization is None:
            ignored: npt.NDArray[np.bool_] = letters.is_hashes.copy()
        else:  # which may have made it ###
            ignored = np.array([text == IGNORED_TEXT for mine in texts for text in mine], np.bool_)
        ignored[: self.first_word] = False
        for i, image in enumerate(self.images[self.first_target :], self.first_target):
            flags = image.get("ignore")
            if flags is not None:
                mine = as_array(flags).reshape(-1)
                self._must_count(i, "ignore", len(mine))
                if mine.dtype != np.bool_ and not np.isin(mine, (0, 1)).all():
                    raise ValueError(
                        f"Expected {self.where(i)}['ignore'] to hold booleans but got {mine[:8].tolist()!r}"
                    )
                ignored[self.image_start[i] : self.image_start[i + 1]] = self._kept_of(i, mine)
        return ignored

    def labels(self) -> Ints:
        """(S,) int64 orientation labels as numbers that are equal where the labels are, -1 without one; or none."""
        codes: Ints = np.empty(0, np.int64)
        for i, image in enumerate(self.images):
            labels = image.get("orientation_labels")
            if labels is not None:
                labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
                self._must_count(i, "orientation_labels", len(labels))
                numbers = [
                    -1 if label is None else _labels.setdefault(label, len(_labels)) for label in labels
                ]
                if not len(codes):
                    codes = np.full(len(self.style), -1)
                codes[self.image_start[i] : self.image_start[i + 1]] = self._kept_of(
                    i, np.array(numbers, np.int64)
                )
        return codes

    def longer_image_sides(self) -> Floats:
        """The longer side of each image of the ground truth."""
        sides = []
        for i, image in enumerate(self.images[self.first_target :], self.first_target):
            size = image.get("image_size")
            if size is None:
                raise ValueError(
                    f"Expected {self.where(i)} to bring 'image_size' (height, width): scale_bins needs it"
                )
            height_width = as_array(size).reshape(-1).astype(np.float64)
            if len(height_width) != 2 or not (np.isfinite(height_width).all() and (height_width > 0).all()):
                raise ValueError(
                    f"Expected {self.where(i)}['image_size'] to be (height, width) above 0 but got {size!r}"
                )
            sides.append(height_width.max())
        return np.array(sides, np.float64)

    def _gather_shapes(self) -> tuple[list[npt.NDArray[Any]], list[int | Ints], list[bool]]:
        """For each image its points (P, 2), the points of each shape or of all alike, and whether 4 make a quad."""
        points: list[npt.NDArray[Any]] = []
        lengths: list[int | Ints] = []
        quads: list[bool] = []
        for i, image in enumerate(self.images):
            if type(image) is not dict and not isinstance(image, Mapping):
                raise TypeError(
                    f"Expected {self.place(i)} to be a dict with 'polygons' or 'boxes' but got {type(image).__name__}"
                )
            mine, length, are_quads = self._shapes_of(i, image)
            points.append(mine)
            lengths.append(length)
            quads.append(are_quads)
            self.given_sizes.append(len(mine) // length if isinstance(length, int) else len(length))
            scores = image.get("scores")
            if scores is not None:
                self._must_count(i, "scores", len(scores))
        return points, lengths, quads

    def _rings_and_styles(
        self, lengths: list[int | Ints], quads: list[bool]
    ) -> tuple[Ints, npt.NDArray[np.uint8]]:
        """(S + 1,) where each shape's points start, and (S,) how they are read."""
        n = sum(self.given_sizes)
        polygons = self.rules.polygons
        if polygons == "v2023":
            quads = [True] * len(quads)
        if (
            polygons != "upstage"
            and all(quads)
            and all(type(length) is int and length == 4 for length in lengths)
        ):
            self.quads_alone = True
            return np.arange(0, 4 * n + 1, 4), np.zeros(n, np.uint8)  # all QUAD
        counts = [
            np.full(size, length) if isinstance(length, int) else length
            for length, size in zip(lengths, self.given_sizes, strict=True)
        ]
        ring_lengths = np.concatenate(counts) if counts else np.empty(0, np.int64)
        style = np.full(n, _POLYGON_STYLE[polygons], np.uint8)
        if polygons != "upstage":
            style[(ring_lengths == 4) & np.repeat(np.array(quads, np.bool_), self.given_sizes)] = QUAD
        return starts_of(ring_lengths), style

    def _shapes_of(self, i: int, image: Image) -> tuple[npt.NDArray[Any], int | Ints, bool]:
        """See :meth:`_gather_shapes`."""
        polygons = image.get("polygons")
        boxes = image.get("boxes")
        if (polygons is None) == (boxes is None):
            raise ValueError(
                f"Expected {self.where(i)} to hold either 'polygons' or 'boxes' but got "
                f"{'both' if boxes is not None else 'neither'}; its keys are {sorted(map(str, image))}"
            )
        box_type = image.get("box_type")
        if box_type not in (None, "quad", "ltrb", "poly"):
            raise ValueError(
                f"Expected {self.where(i)}['box_type'] to be 'quad' or 'poly' but got {box_type!r}"
            )
        are_quads = True
        lengths: int | Ints = 4
        if boxes is not None:
            points = self._corners_of(i, boxes)
        elif isinstance(polygons, np.ndarray) and polygons.dtype.kind != "O":
            points, lengths = self._points_of_array(i, polygons)
        elif isinstance(polygons, np.ndarray | list | tuple):
            points, lengths, are_quads = self._points_of_list(i, polygons)
        else:
            points, lengths = self._points_of_array(i, as_array(polygons))
        return points, lengths, are_quads if box_type is None else box_type != "poly"

    def _corners_of(self, i: int, boxes: Any) -> npt.NDArray[Any]:
        """Boxes (N, 4) as the corners of quads (4 N, 2)."""
        try:
            array = as_array(boxes)
        except ValueError:
            array = np.empty(0, object)
        if array.size == 0:
            return np.empty((0, 2))
        if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iufb":
            raise ValueError(
                f"Expected {self.where(i)}['boxes'] to be numbers of shape (N, 4), left, top, right, bottom, but got "
                f"shape {array.shape} of {array.dtype}"
            )
        backwards = (array[:, 2] < array[:, 0]) | (array[:, 3] < array[:, 1])
        if backwards.any():
            shape = int(np.argmax(backwards))
            raise ValueError(
                f"Expected {self.where(i)}['boxes'][{shape}] to be left, top, right, bottom with right >= left and "
                f"bottom >= top but got {array[shape].tolist()}"
            )
        return array[:, _BOX_CORNERS].reshape(-1, 2)

    def _points_of_array(self, i: int, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int | Ints]:
        """Polygons of an array (N, 8) or (N, P, 2)."""
        if array.dtype.kind not in "iufb":
            raise ValueError(
                f"Expected {self.where(i)}['polygons'] to be numbers but got an array of {array.dtype}"
            )
        if array.ndim == 2 and array.shape[1] == 8:
            return array.reshape(-1, 2), 4
        if array.ndim == 3 and array.shape[2] == 2:
            return array.reshape(-1, 2), array.shape[1] or np.zeros(len(array), np.int64)
        if array.size == 0:
            return np.empty((0, 2)), 4
        raise ValueError(
            f"Expected {self.where(i)}['polygons'] to be of shape (N, 8) or (N, P, 2), or a list of (P, 2), but got "
            f"shape {array.shape}"
        )

    def _points_of_list(self, i: int, polygons: Any) -> tuple[npt.NDArray[Any], Ints, bool]:
        """Polygons of a list, each (P, 2) or flat; and whether each is a flat row of 8 numbers."""
        if set(map(type, polygons)) == {np.ndarray}:
            try:  # what detectors give: arrays (P, 2) alone
                points = np.concatenate(polygons)
            except ValueError:
                points = np.empty(0)
            if points.ndim == 2 and points.shape[1] == 2 and points.dtype.kind in "iufb":
                return points, np.fromiter(map(len, polygons), np.int64, len(polygons)), False
        rows: list[npt.NDArray[Any]] = []
        eights = 0
        for shape, polygon in enumerate(polygons):
            try:
                row = polygon if type(polygon) is np.ndarray else as_array(polygon)
            except ValueError:
                row = np.empty((0, 0), object)
            if row.ndim == 1 and (row.size % 2 == 0 or self.rules.polygons == "upstage"):
                eights += row.size == 8
                row = row.reshape(-1, 2) if row.size % 2 == 0 else np.empty((0, 2))
            if row.ndim != 2 or row.shape[1] != 2 or row.dtype.kind not in "iufb":
                raise ValueError(
                    f"Expected {self.where(i)}['polygons'][{shape}] to be points of shape (P, 2) but got {polygon!r}"
                )
            rows.append(row)
        points = np.concatenate(rows) if rows else np.empty((0, 2))
        return points, np.fromiter(map(len, rows), np.int64, len(rows)), eights == len(rows)

    def _refuse_bad_points(self) -> None:
        """Raise for coordinates that are no finite numbers, and for shapes without points."""
        finite = np.isfinite(self.points)
        if not finite.all():
            point = int(np.argmin(finite.all(axis=1)))
            i, shape = self.place_of(int(np.searchsorted(self.ring_start, point, "right")) - 1)
            raise ValueError(
                f"Expected the coordinates of {self.where(i)} to be finite but shape {shape} holds "
                f"{self.points[point].tolist()}"
            )
        if self.rules.polygons != "upstage" and self.style.any() and not np.diff(self.ring_start).all():
            i, shape = self.place_of(int(np.argmin(np.diff(self.ring_start))))
            raise ValueError(
                f"Expected shape {shape} of {self.where(i)} to have at least 1 point but it has none"
            )

    def _refuse_non_texts(self, texts: Sequence[Sequence[Any]]) -> None:
        for i, mine in enumerate(texts):
            for shape, text in enumerate(mine):
                if not isinstance(text, str):
                    raise TypeError(
                        f"Expected {self.where(i)}['texts'][{shape}] to be a str but got {text!r}"
                    )

    def place_of(self, at: int) -> tuple[int, int]:
        """Image of the shape ``at``, and its number there."""
        i = int(np.searchsorted(self.image_start, at, "right")) - 1
        return i, at - int(self.image_start[i])

    def _leave_out(self) -> None:
        """Drop an image's detections after the first so many, and what the rules cannot read."""
        ring_lengths = np.diff(self.ring_start)
        position = np.arange(len(self.style)) - np.repeat(self.image_start[:-1], self.given_sizes)
        kept = np.ones(len(self.style), np.bool_)
        first_word = self.image_start[self.first_target]
        if self.rules.max_detections is not None:
            kept[:first_word] = position[:first_word] < self.rules.max_detections
        if self.rules.polygons == "upstage":
            short = kept & (ring_lengths < 4)
            of_preds = np.arange(len(short)) < first_word
            for name, mine in (("preds", short & of_preds), ("target", short & ~of_preds)):
                if mine.any():
                    i, shape = self.place_of(int(np.argmax(mine)))
                    warnings.warn(
                        f"{int(mine.sum())} shapes of {name} with fewer than 4 points, or an odd number of "
                        f"coordinates, are left out, as rule set upstage does; "
                        f"the first is shape {shape} of {self.where(i)}",
                        UserWarning,
                        stacklevel=2,
                    )
            kept &= ~short
        if kept.all():
            return
        self.points = self.points[np.repeat(kept, ring_lengths)]
        self.ring_start = starts_of(ring_lengths[kept])
        self.style = self.style[kept]
        self.source = position[kept]
        self.kept = kept
        self.given_start = self.image_start
        self.image_start = starts_of(kept)[self.image_start]

    def _complete_short_polygons(self) -> None:
        """Give polygons of fewer than 4 points the points that the scripts of 2020 read in their place."""
        short = (self.style == TRUNCATED) & (np.diff(self.ring_start) < 4)
        if not short.any():
            return
        rings = np.split(self.points, self.ring_start[1:-1])
        for s in np.flatnonzero(short).tolist():
            ring = rings[s]
            x, y = ring[:, 0], ring[:, 1]
            if len(ring) == 3:
                rings[s] = np.concatenate((ring, [[x[0], y[2]]]))
                continue
            self.style[s] = TRUNCATED_POINTS
            x0, y0, x1, y1 = (x[0], y[0], x[1], y[1]) if len(ring) == 2 else (x[0], y[0], x[0], x[0])
            rings[s] = np.array(
                [[x0, y0], [x1, y1], [x1, y0], [x0, y1]] if len(ring) == 2 else [[x0, y0], *[[x0, x0]] * 3]
            )
        self.points = np.concatenate(rings)
        self.ring_start = starts_of(np.array([len(ring) for ring in rings]))

    def _kept_of(self, i: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of an image's column, the values of the shapes that are used."""
        return (
            values if self.kept is None else values[self.kept[self.given_start[i] : self.given_start[i + 1]]]
        )

    def _must_count(self, i: int, key: str, came: int) -> None:
        if came != self.given_sizes[i]:
            raise ValueError(self._count_message(i, key, came, self.given_sizes[i]))

    def _count_message(self, i: int, key: str, came: int, expected: int) -> str:
        return f"Expected {self.where(i)}[{key!r}] to have one entry for each of {expected} shapes but got {came}"
