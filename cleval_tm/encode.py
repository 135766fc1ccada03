"""What a user hands in -> the flat arrays of the kernels. The only room that sees dicts, lists and tensors, and
the only one that validates."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cleval_tm.counts import scale_bins_of
from cleval_tm.kernels.characters import (
    POLYGON,
    QUAD,
    SNAPPED,
    TRUNCATED,
    TRUNCATED_POINTS,
    place_characters,
)
from cleval_tm.kernels.matching import Detections, Options, Words
from cleval_tm.kernels.measure import shorter_sides
from cleval_tm.rules import CLEvalRules
from cleval_tm.shapes import Shapes, regions_of_ignored
from cleval_tm.text import lengths_of, letters_of, transformed

Image = Mapping[str, Any]
ImageId = str | int | None
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IGNORED_TEXT = "###"
_POLYGON_STYLE = {"v2023": POLYGON, "v2020": TRUNCATED, "upstage": SNAPPED}
_BOX_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]


class GroundTruth:
    """Ground truth encoded once, for as many evaluations as are wanted.

    Args:
        target: one dict an image, as :func:`cleval_tm.evaluate` takes them.
        rules: the rule set, or its name.
        e2e: whether texts will be compared; then every image must bring them.
        scale_bins: edges of the scale bins, or None; with them every image must bring its ``"image_size"``.

    Raises:
        TypeError, ValueError: if an image is not as it should be; the message names the image and the shape.

    Example:
        >>> gt = GroundTruth([{"boxes": [[0, 0, 40, 10]], "texts": ["word"], "image_id": "a.jpg"}], "v2023")
        >>> len(gt), gt.image_ids
        (1, ['a.jpg'])
    """

    def __init__(
        self,
        target: Sequence[Image],
        rules: str | CLEvalRules = "v2023",
        *,
        e2e: bool = True,
        scale_bins: Sequence[float] | None = None,
    ) -> None:
        self.rules = CLEvalRules.of(rules)
        self.e2e = e2e
        self.scale_bins = checked_scale_bins(scale_bins)
        side = _Side("target", on_host(target), self.rules)
        self.image_ids: list[ImageId] = side.image_ids()
        self.images: Ints = np.arange(len(side.images))
        self.source = side.source
        self.words = _encode_words(side, self.rules, e2e, self.scale_bins)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Sequence[int] | Ints) -> GroundTruth:
        """The same ground truth of the images at ``indices``; nothing is encoded again."""
        chosen = object.__new__(GroundTruth)
        chosen.__dict__.update(self.__dict__)
        chosen.images = self.images[np.asarray(indices, np.int64)]
        chosen.image_ids = [self.image_ids[i] for i in indices]
        return chosen

    def must_fit(self, rules: CLEvalRules, e2e: bool, scale_bins: tuple[float, ...] | None) -> None:
        """Raise ValueError unless the ground truth was encoded with these options."""
        for name, mine, asked in (
            ("rules", self.rules, rules),
            ("e2e", self.e2e, e2e),
            ("scale_bins", self.scale_bins, scale_bins),
        ):
            if mine != asked:
                raise ValueError(
                    f"Expected ground truth that was encoded with {name}={asked!r} but got one encoded with {mine!r}"
                )


class EncodedDetections:
    """Detections of a batch, ready for the kernels.

    Attributes:
        detections: the kernels' arrays.
        source: (S,) int64, where each shape stood in its image, or None where all of them are used.
    """

    def __init__(self, preds: Sequence[Image], rules: CLEvalRules, *, e2e: bool) -> None:
        side = _Side("preds", preds, rules, rules.max_detections)
        texts, _ = side.texts()
        if e2e:
            side.must_have_texts()
        labels = side.labels()
        shapes = side.shapes()
        if e2e and rules.counts_hashes_as_pseudo and IGNORED_TEXT in texts:
            lengths = shapes.pseudo_length.tolist()
            texts = ["#" * n if text == IGNORED_TEXT else text for text, n in zip(texts, lengths, strict=True)]
        letters, letter_start, _ = _letters(texts if e2e else [""] * len(texts), rules, e2e)
        self.source = side.source
        self.detections = Detections(
            image_start=side.image_start,
            rings=shapes.rings,
            ring_start=shapes.ring_start,
            style=shapes.style,
            bounds=shapes.bounds,
            area=shapes.area,
            edges=shapes.edges,
            edge_start=shapes.edge_start,
            edge_end=shapes.edge_end,
            false_positive_chars=shapes.false_positive_chars,
            letters=letters,
            letter_start=letter_start,
            label=labels,
            irregular=shapes.irregular,
        )


def encode(
    preds: Sequence[Image],
    target: Sequence[Image] | GroundTruth,
    rules: CLEvalRules,
    *,
    e2e: bool,
    scale_bins: tuple[float, ...] | None,
) -> tuple[EncodedDetections, GroundTruth]:
    """Both sides of a batch, validated and flat.

    Raises:
        TypeError, ValueError: if anything is not as it should be, before any work on it.
    """
    if isinstance(preds, Mapping) or isinstance(target, Mapping):
        raise TypeError(
            "Expected arguments `preds` and `target` to be sequences with one dict an image but got a single dict; "
            "for one image pass [preds], [target]"
        )
    if len(preds) != len(target):
        raise ValueError(
            "Expected arguments `preds` and `target` to hold equally many images but got "
            f"{len(preds)} and {len(target)}"
        )
    if isinstance(target, GroundTruth):
        target.must_fit(rules, e2e, scale_bins)
        return EncodedDetections(on_host(preds), rules, e2e=e2e), target
    both = on_host([*preds, *target])
    gt = GroundTruth(both[len(preds) :], rules, e2e=e2e, scale_bins=scale_bins)
    return EncodedDetections(both[: len(preds)], rules, e2e=e2e), gt


def kernel_options(rules: CLEvalRules, *, e2e: bool) -> Options:
    """What of ``rules`` the kernels ask for."""
    return Options(
        ap_constraint=float(rules.ap_constraint),
        ap_float32_constraint=float(np.float32(rules.ap_constraint)),
        in_float32=rules.ap_float32,
        ignores_strictly=rules.ignore_strictly,
        lcs_prefers_left=rules.lcs_prefers_left,
        reads_text=e2e,
    )


def checked_scale_bins(scale_bins: Sequence[float] | None) -> tuple[float, ...] | None:
    """Edges of scale bins, at least two and rising.

    Raises:
        ValueError: if they are not.
    """
    if scale_bins is None:
        return None
    edges = tuple(scale_bins)
    if len(edges) < 2 or not all(low < high for low, high in scale_bins_of(edges)):
        raise ValueError(
            f"Expected argument `scale_bins` to be at least two rising edges, such as (0, 0.1, 1), but got {scale_bins!r}"
        )
    return edges


def on_host(images: Sequence[Image]) -> Sequence[Image]:
    """The images with their tensors on the host: those of an accelerator travel in one copy, not one a box."""
    torch = sys.modules.get("torch")
    if torch is None:
        return images
    places = [
        (i, key, value)
        for i, image in enumerate(images)
        if isinstance(image, Mapping)
        for key, value in image.items()
        if isinstance(value, torch.Tensor) and value.device.type != "cpu"
    ]
    if not places:
        return images
    tensors = [_plain_dtype(value.detach(), torch) for _, _, value in places]
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    data = torch.cat(parts).cpu().numpy()
    copied = [dict(image) if isinstance(image, Mapping) else image for image in images]
    at = 0
    for (i, key, _), tensor in zip(places, tensors, strict=True):
        size = tensor.numel() * tensor.element_size()
        dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        copied[i][key] = data[at : at + size].view(dtype).reshape(tuple(tensor.shape))  # type: ignore[index]
        at += size
    return copied


def as_array(value: Any) -> npt.NDArray[Any]:
    """An array of a tensor, an array or a nested list, on the host and without gradients."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _plain_dtype(value.detach().cpu(), torch).numpy()  # type: ignore[no-any-return]
    return np.asarray(value)


def _plain_dtype(tensor: Any, torch: Any) -> Any:
    """The tensor in a dtype that numpy knows: bfloat16 becomes float32, which holds its every value."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _encode_words(
    side: _Side, rules: CLEvalRules, e2e: bool, scale_bins: tuple[float, ...] | None
) -> Words:
    texts, has_text = side.texts()
    if e2e:
        side.must_have_texts()
    ignored = side.ignored(texts)
    labels = side.labels()
    longer_sides = None if scale_bins is None else side.longer_image_sides()
    letters, letter_start, lengths = _letters(texts, rules, e2e)
    shapes = side.shapes()
    char_start = _starts(np.where(ignored | ~has_text, shapes.pseudo_length, lengths))
    threshold = rules.vertical_aspect_ratio_thresh
    if rules.aspect_by_height:
        threshold = 1.0 / threshold if threshold > 0 else float("inf")
    centres = place_characters(
        side.points, side.ring_start, side.style, char_start, rules.aspect_by_height, float(threshold)
    )
    views = ignored[np.newaxis]
    if scale_bins is not None and longer_sides is not None:
        scales = shorter_sides(side.points, side.ring_start) / np.repeat(longer_sides, np.diff(side.image_start))
        outside = [(scales < low) | (scales > high) for low, high in scale_bins_of(scale_bins)]
        views = np.stack([ignored, *(ignored | out for out in outside)])
    region = regions_of_ignored(shapes, side.image_start, views)
    return Words(
        image_start=side.image_start,
        bounds=shapes.bounds,
        edges=shapes.edges,
        edge_start=shapes.edge_start,
        edge_end=shapes.edge_end,
        char_start=char_start,
        centres=centres,
        letters=letters,
        letter_start=letter_start,
        label=labels,
        irregular=shapes.irregular,
        ignored=np.ascontiguousarray(views),
        region=region,
        order=_walking_order(side.image_start, views, rules),
    )


def _walking_order(image_start: Ints, views: npt.NDArray[np.bool_], rules: CLEvalRules) -> Ints:
    """(V, S) the order in which each image's words are walked, counted from its first."""
    sizes = np.diff(image_start)
    ascending = np.arange(image_start[-1]) - np.repeat(image_start[:-1], sizes)
    order = np.broadcast_to(ascending, views.shape).copy()
    if not rules.set_order:
        return order
    for view in range(len(views)):
        for image in np.unique(np.repeat(np.arange(len(sizes)), sizes)[views[view]]).tolist():
            first, last = image_start[image], image_start[image + 1]
            ignored: set[int] = set()
            for g in np.flatnonzero(views[view, first:last]).tolist():
                ignored.add(g)  # one by one: how a set grew shows in its order
            order[view, first:last] = [*(set(range(last - first)) - ignored), *ignored]
    return order


def _starts(lengths: npt.NDArray[Any]) -> Ints:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _letters(
    texts: Sequence[str], rules: CLEvalRules, e2e: bool
) -> tuple[npt.NDArray[np.int32], Ints, Ints]:
    """(letters, first letter of each text (S + 1,), characters of each text (S,)); no letters without ``e2e``."""
    texts = transformed(texts, rules)
    if not e2e:
        return np.empty(0, np.int32), np.zeros(len(texts) + 1, np.int64), lengths_of(texts, rules)
    letters, lengths = letters_of(texts, rules)
    return letters, _starts(lengths), lengths


class _Side:
    """One side's images gathered into flat arrays, a column each; S shapes, P points."""

    def __init__(
        self, name: str, images: Sequence[Image], rules: CLEvalRules, most: int | None = None
    ) -> None:
        self.name = name
        self.images = images
        self.rules = rules
        points, lengths, is_quad, sizes = self._gather_shapes()
        self.given_sizes = sizes
        self.points: Floats = points
        self.ring_lengths: Ints = lengths
        self.style = np.full(len(lengths), _POLYGON_STYLE[rules.polygons], np.uint8)
        if rules.polygons != "upstage":
            self.style[(lengths == 4) & (is_quad | (rules.polygons == "v2023"))] = QUAD
        self.image_start = _starts(sizes)
        self.kept: npt.NDArray[np.bool_] | None = None
        self.source: Ints | None = None
        self._refuse_bad_points()
        if most is not None or lengths.min(initial=4) < 4:
            self._leave_out(most)
            self._complete_short_polygons()
        self.ring_start = _starts(self.ring_lengths)

    def where(self, i: int) -> str:
        """How errors name image ``i``."""
        image_id = self.images[i].get("image_id")
        return f"{self.name}[{i}]" + ("" if image_id is None else f" (image_id {image_id!r})")

    def shapes(self) -> Shapes:
        """The shapes, measured."""
        rules = self.rules
        return Shapes(self.points, self.ring_start, self.style, rules.aspect_by_height, rules.pseudo_length_cap)

    def image_ids(self) -> list[ImageId]:
        """Each image's id, or None."""
        ids: list[ImageId] = []
        for i, image in enumerate(self.images):
            image_id = image.get("image_id")
            if image_id is not None and not isinstance(image_id, str | int):
                try:  # numpy's and torch's integers
                    image_id = image_id.__index__()
                except (AttributeError, TypeError):
                    raise TypeError(
                        f"Expected {self.name}[{i}]['image_id'] to be a str or an int but got {image_id!r}"
                    ) from None
            ids.append(image_id)
        return ids

    def texts(self) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """Each shape's text, "" where its image brings none; and whether it does, (S,) bool."""
        texts: list[str] = []
        given = np.ones(len(self.images), np.bool_)
        for i, image in enumerate(self.images):
            mine = image.get("texts")
            size = int(self.given_sizes[i])
            if mine is None:
                given[i] = False
                texts += [""] * size
            else:
                self._must_count(i, "texts", len(mine))
                texts += mine
        if self.kept is not None:
            texts = [text for text, kept in zip(texts, self.kept.tolist(), strict=True) if kept]
        if set(map(type, texts)) - {str}:
            self._refuse_non_texts(texts)
        return texts, np.repeat(given, np.diff(self.image_start))

    def must_have_texts(self) -> None:
        """Raise unless every image with shapes brings texts."""
        for i, image in enumerate(self.images):
            if image.get("texts") is None and self.given_sizes[i]:
                raise ValueError(
                    f"Expected {self.where(i)} to bring 'texts' for its {self.given_sizes[i]} shapes but it has none; "
                    "pass e2e=False to score detection alone"
                )

    def ignored(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        """Which words do not count: those flagged, or, in images without flags, those whose text is ###."""
        ignored = np.zeros(len(texts), np.bool_)
        if IGNORED_TEXT in texts:
            ignored[:] = [text == IGNORED_TEXT for text in texts]
        for i, image in enumerate(self.images):
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
        """(S,) int64 orientation labels as numbers that are equal where the labels are; -1 without one."""
        codes = np.full(len(self.style), -1, np.int64)
        for i, image in enumerate(self.images):
            labels = image.get("orientation_labels")
            if labels is not None:
                labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
                self._must_count(i, "orientation_labels", len(labels))
                numbers = [-1 if label is None else _labels.setdefault(label, len(_labels)) for label in labels]
                codes[self.image_start[i] : self.image_start[i + 1]] = self._kept_of(i, np.array(numbers, np.int64))
        return codes

    def longer_image_sides(self) -> Floats:
        """(images,) the longer side of each image."""
        sides = np.empty(len(self.images))
        for i, image in enumerate(self.images):
            size = image.get("image_size")
            if size is None:
                raise ValueError(f"Expected {self.where(i)} to bring 'image_size' (height, width): scale_bins needs it")
            height_width = as_array(size).reshape(-1).astype(np.float64)
            if len(height_width) != 2 or not (np.isfinite(height_width).all() and (height_width > 0).all()):
                raise ValueError(
                    f"Expected {self.where(i)}['image_size'] to be (height, width) above 0 but got {size!r}"
                )
            sides[i] = height_width.max()
        return sides

    def _gather_shapes(self) -> tuple[Floats, Ints, npt.NDArray[np.bool_], Ints]:
        """All points (P, 2), points of each shape (S,), whether it came as a quad (S,), shapes of each image."""
        points: list[npt.NDArray[Any]] = []
        lengths: list[int] = []
        is_quad: list[bool] = []
        sizes: list[int] = []
        for i, image in enumerate(self.images):
            if not isinstance(image, Mapping):
                raise TypeError(
                    f"Expected {self.name}[{i}] to be a dict with 'polygons' or 'boxes' but got {type(image).__name__}"
                )
            mine, mine_lengths, quads = self._shapes_of(i, image)
            points.append(mine)
            lengths += mine_lengths
            is_quad += [quads] * len(mine_lengths)
            sizes.append(len(mine_lengths))
            for key in ("scores",):
                if image.get(key) is not None and len(image[key]) != len(mine_lengths):
                    raise ValueError(self._count_message(i, key, len(image[key]), len(mine_lengths)))
        flat = np.concatenate(points, dtype=np.float64) if points else np.empty((0, 2))
        return flat, np.array(lengths, np.int64), np.array(is_quad, np.bool_), np.array(sizes, np.int64)

    def _shapes_of(self, i: int, image: Image) -> tuple[npt.NDArray[Any], list[int], bool]:
        """One image's points (P, 2), points of each shape, and whether its shapes of 4 points are quads."""
        polygons = image.get("polygons")
        boxes = image.get("boxes")
        if (polygons is None) == (boxes is None):
            raise ValueError(
                f"Expected {self.where(i)} to hold either 'polygons' or 'boxes' but got "
                f"{'both' if boxes is not None else 'neither'}; its keys are {sorted(map(str, image))}"
            )
        box_type = image.get("box_type")
        if box_type not in (None, "quad", "ltrb", "poly"):
            raise ValueError(f"Expected {self.where(i)}['box_type'] to be 'quad' or 'poly' but got {box_type!r}")
        if boxes is not None:
            corners = self._corners_of(i, boxes)
            return corners, [4] * (len(corners) // 4), box_type != "poly"
        is_list = isinstance(polygons, list | tuple) or (
            isinstance(polygons, np.ndarray) and polygons.dtype == object
        )
        if is_list:
            points, lengths, are_flat = self._points_of_list(i, polygons)
        else:
            points, lengths = self._points_of_array(i, polygons)
            are_flat = False
        quads = (not is_list or are_flat) if box_type is None else box_type != "poly"
        return points, lengths, quads

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

    def _points_of_array(self, i: int, polygons: Any) -> tuple[npt.NDArray[Any], list[int]]:
        """Polygons of an array or tensor (N, 8) or (N, P, 2)."""
        array = as_array(polygons)
        if array.dtype.kind not in "iufb":
            raise ValueError(f"Expected {self.where(i)}['polygons'] to be numbers but got an array of {array.dtype}")
        if array.ndim == 2 and array.shape[1] == 8:
            return array.reshape(-1, 2), [4] * len(array)
        if array.ndim == 3 and array.shape[2] == 2:
            return array.reshape(-1, 2), [array.shape[1]] * len(array)
        if array.size == 0:
            return np.empty((0, 2)), []
        raise ValueError(
            f"Expected {self.where(i)}['polygons'] to be of shape (N, 8) or (N, P, 2), or a list of (P, 2), but got "
            f"shape {array.shape}"
        )

    def _points_of_list(self, i: int, polygons: Any) -> tuple[npt.NDArray[Any], list[int], bool]:
        """Polygons of a list, each (P, 2) or flat; and whether each is a flat row of 8 numbers."""
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
        return points, list(map(len, rows)), eights == len(rows)

    def _refuse_bad_points(self) -> None:
        """Raise for coordinates that are no finite numbers, and for shapes without points."""
        finite = np.isfinite(self.points)
        if not finite.all():
            point = int(np.argmin(finite.all(axis=1)))
            i, shape = self._place_of(int(np.searchsorted(np.cumsum(self.ring_lengths), point, "right")))
            raise ValueError(
                f"Expected the coordinates of {self.where(i)} to be finite but shape {shape} holds "
                f"{self.points[point].tolist()}"
            )
        if self.rules.polygons != "upstage" and self.ring_lengths.min(initial=1) < 1:
            i, shape = self._place_of(int(np.argmin(self.ring_lengths)))
            raise ValueError(f"Expected shape {shape} of {self.where(i)} to have at least 1 point but it has none")

    def _refuse_non_texts(self, texts: list[str]) -> None:
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                i, shape = self._place_of(at)
                raise TypeError(f"Expected {self.where(i)}['texts'][{shape}] to be a str but got {text!r}")

    def _place_of(self, at: int) -> tuple[int, int]:
        """Image of the shape ``at``, and its number there."""
        i = int(np.searchsorted(self.image_start, at, "right")) - 1
        return i, at - int(self.image_start[i])

    def _leave_out(self, most: int | None) -> None:
        """Drop detections after the first ``most``, and what the rules cannot read."""
        position = np.arange(len(self.style)) - np.repeat(self.image_start[:-1], self.given_sizes)
        kept = np.ones(len(self.style), np.bool_) if most is None else position < most
        if self.rules.polygons == "upstage":
            short = kept & (self.ring_lengths < 4)
            if short.any():
                i, shape = self._place_of(int(np.argmax(short)))
                warnings.warn(
                    f"{int(short.sum())} shapes of {self.name} with fewer than 4 points, or an odd number of "
                    f"coordinates, are left out, as rule set upstage does; the first is shape {shape} of {self.where(i)}",
                    UserWarning,
                    stacklevel=2,
                )
            kept &= ~short
        if kept.all():
            return
        self.points = self.points[np.repeat(kept, self.ring_lengths)]
        self.ring_lengths = self.ring_lengths[kept]
        self.style = self.style[kept]
        self.source = position[kept]
        self.kept = kept
        self.given_start = self.image_start
        self.image_start = _starts(kept)[self.image_start]

    def _complete_short_polygons(self) -> None:
        """Give polygons of fewer than 4 points the points that the scripts of 2020 read in their place."""
        short = (self.style == TRUNCATED) & (self.ring_lengths < 4)
        if not short.any():
            return
        rings = np.split(self.points, np.cumsum(self.ring_lengths)[:-1])
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
        self.ring_lengths = np.array([len(ring) for ring in rings], np.int64)

    def _kept_of(self, i: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of an image's column, the values of the shapes that are used."""
        return values if self.kept is None else values[self.kept[self.given_start[i] : self.given_start[i + 1]]]

    def _must_count(self, i: int, key: str, came: int) -> None:
        if came != self.given_sizes[i]:
            raise ValueError(self._count_message(i, key, came, int(self.given_sizes[i])))

    def _count_message(self, i: int, key: str, came: int, expected: int) -> str:
        return f"Expected {self.where(i)}[{key!r}] to have one entry for each of {expected} shapes but got {came}"


_labels: dict[Any, int] = {}
