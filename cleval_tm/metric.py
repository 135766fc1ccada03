"""CLEval as a torchmetrics metric: its state is one table of integers, every score a function of it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from cleval_tm.counts import (
    COUNTS,
    IntTable,
    all_scores,
    scale_bins_of,
    total_counts,
)
from cleval_tm.encode import checked_scale_bins
from cleval_tm.evaluation import count_images
from cleval_tm.rules import CLEvalRules
from cleval_tm.table import distinct_rows, image_key


class CLEvalMetric(Metric):
    """CLEval: text detection, alone or with recognition, scored by characters instead of boxes.

    The state is one table of int64 counts with a row an image, so batch size, order, number of ranks,
    restarts and precision never show in the scores.

    Args:
        rules: name of a published rule set (``"v2023"``, ``"v2020"``, ``"upstage"``), or a
            :class:`~cleval_tm.CLEvalRules`.
        e2e: compare texts too. With ``True`` both sides must bring ``"texts"``.
        scale_bins: ascending edges of bins of word size (shorter side of the word / longer side of the
            image): adds scores for each bin, and needs ``"image_size"`` in each target.
        per_image: keep a row an image. ``False`` keeps column sums alone, for streams without end: no image
            means, repeated images count again, and no rule set that clamps in each image.
        orientation: add the score ``orientation_accuracy``: of the matched pairs that both have an
            orientation label, the share whose labels are equal.
        score: name of the one score that ``compute`` returns, as a 0-d tensor instead of a dict.
        kwargs: what every torchmetrics metric takes (``sync_on_compute``, ``process_group``, ...).

    Attributes:
        score_names: the keys of the dict that ``compute`` returns, in their order.

    Raises:
        ValueError: if an argument is not as expected; the message names it.

    Example:
        >>> import numpy as np
        >>> from cleval_tm import CLEvalMetric
        >>> word = np.array([[10, 10, 90, 10, 90, 30, 10, 30]])
        >>> metric = CLEvalMetric()
        >>> metric.update(
        ...     [{"polygons": word, "texts": ["heart"]}],
        ...     [{"polygons": word, "texts": ["hearth"], "image_id": "img_1"}],
        ... )
        >>> scores = metric.compute()
        >>> scores["det_hmean"], scores["e2e_recall"]
        (tensor(1.), tensor(0.8333))

    Source:
        CLEval (Baek et al., 2020, arXiv:2006.06244).
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        rules: str | CLEvalRules = "v2023",
        *,
        e2e: bool = True,
        scale_bins: Sequence[float] | None = None,
        per_image: bool = True,
        score: str | None = None,
        orientation: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rules = CLEvalRules.of(rules)
        self.e2e = e2e
        self.scale_bins = checked_scale_bins(scale_bins)
        self.per_image = per_image
        self.orientation = orientation
        if self.rules.clamp_per_image and not per_image:
            raise ValueError(
                "Expected argument `per_image` to be True under rules that clamp in each image "
                f"(`clamp_per_image`, as {self.rules.name!r} does) but got {per_image!r}"
            )
        self._bins = [] if self.scale_bins is None else scale_bins_of(self.scale_bins)
        self._columns = 1 + len(COUNTS) * (1 + len(self._bins))
        self.score_names = tuple(self._scores(np.zeros((0, self._columns), dtype=np.int64)))
        if score is not None and score not in self.score_names:
            raise ValueError(
                f"Expected argument `score` to be None or one of {', '.join(self.score_names)} "
                f"but got {score!r}"
            )
        self.score = score
        self._state = self._state_name()
        self.add_state(self._state, [], dist_reduce_fx="cat")

    def _state_name(self) -> str:
        """``table_`` and a digest of all options: metrics with other options have another state."""
        digest = hashlib.blake2b(repr(self._options()).encode(), digest_size=8)
        return f"table_{digest.hexdigest()}"

    def _options(self) -> tuple[Any, ...]:
        """What two metrics must have in common to share a table."""
        return (self.rules.digest(), self.e2e, self.scale_bins, self.per_image, COUNTS)

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch of images.

        Args:
            preds: a dict for each image: ``"polygons"`` ((N, 8), (N, P, 2) or a list of (P_i, 2)) or
                ``"boxes"`` ((N, 4), xyxy), ``"texts"`` (a list of str), ``"orientation_labels"``. Tensors on
                any device, arrays and lists; a batch on an accelerator is copied to the host once.
            target: as many dicts of the same kind, and ``"ignore"`` ((N,) bool), ``"image_size"`` (height,
                width) and ``"image_id"`` (str or int); or a :class:`~cleval_tm.encode.GroundTruth`. Both
                sides may also be one (B, N, 8) or (B, N, P, 2) tensor or array of polygons.

        Raises:
            ValueError, TypeError: if an image is not as expected; the message names the image and what is
                wrong. Nothing of the batch counts then.
            TorchMetricsUserError: if the metric is synced.
        """
        counted = count_images(
            _as_images(preds), _as_images(target), self.rules, e2e=self.e2e, scale_bins=self.scale_bins
        )
        self._append(self._rows(counted.counts, counted.image_ids, counted.scale_counts))

    def add_counts(
        self, counts: IntTable, image_ids: Sequence[str | int | None], scale_counts: IntTable | None = None
    ) -> None:
        """Add images that were counted elsewhere, with the same options: an ``update`` without the counting.

        Args:
            counts: (n, len(COUNTS)) int64, a row an image.
            image_ids: the n images' ids.
            scale_counts: (n, bins, len(COUNTS)) int64, needed with ``scale_bins``.

        Raises:
            ValueError: if shapes do not fit; nothing is added then.
            TorchMetricsUserError: if the metric is synced.
        """
        if self._is_synced:
            raise TorchMetricsUserError(_SYNCED.format("add_counts"))
        n, bins = len(image_ids), len(self._bins)
        for name, table, shape in (
            ("counts", counts, (n, len(COUNTS))),
            ("scale_counts", scale_counts, (n, bins, len(COUNTS)) if bins else None),
        ):
            if (None if table is None else np.shape(table)) != shape:
                came = None if table is None else np.shape(table)
                raise ValueError(f"Expected argument `{name}` to be of shape {shape} but got {came}")
        self._append(self._rows(counts, image_ids, scale_counts))
        self._update_count += 1
        self._computed = None

    def compute(self) -> dict[str, Tensor] | Tensor:
        """Scores of all images so far, over all ranks.

        Returns:
            0-d float32 tensors by name, always the same names in the same order
            (:attr:`score_names`): corpus scores, ``mean_`` (over images), ``scale_{low}_{high}_``; or the one
            tensor that ``score`` asks for. Zeros where nothing was counted. Yours to change.
        """
        scores = self._scores(self._distinct())
        if self.score is not None:
            return torch.tensor(scores[self.score], dtype=torch.float32, device=self.device)
        values = torch.tensor(list(scores.values()), dtype=torch.float32, device=self.device)
        return dict(zip(scores, values.unbind(), strict=True))

    def compute_counts(self) -> dict[str, int]:
        """Total counts of all images so far, synced over ranks as :meth:`compute` is.

        Returns:
            Python ints by the names in :data:`cleval_tm.COUNTS`, and ``"images"``.
        """
        table = self.compute_table()
        counts = total_counts(table[:, 1 : 1 + len(COUNTS)])
        counts["images"] = len(table) if self.per_image else int(table[:, 0].sum())
        return counts

    def compute_table(self) -> IntTable:
        """The rows that count, synced over ranks as :meth:`compute` is.

        Returns:
            (n, 1 + len(COUNTS) * (1 + bins)) int64: the key (:func:`~cleval_tm.table.image_key`), the counts,
            the counts of each bin. With ``per_image=False`` one row of sums, the number of images first.
        """
        should_sync = self._to_sync and not self._is_synced
        self.sync(dist_sync_fn=self.dist_sync_fn, should_sync=should_sync)
        try:
            return self._distinct()
        finally:
            if should_sync and self._is_synced:
                self.unsync()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one result or a series of them.

        Args:
            val: a result of ``compute`` or ``forward``, or a list of such; by default ``compute()``.
            ax: a matplotlib axes to draw on.

        Returns:
            figure and axes, as torchmetrics gives them.
        """
        return self._plot(val, ax)

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count a batch, and return the scores of this batch alone; its cost does not grow with the epoch."""
        if self._is_synced:
            raise TorchMetricsUserError(_SYNCED.format("forward"))
        epoch, update_count = getattr(self, self._state), self._update_count
        self._to_sync = self.dist_sync_on_step
        self._hold([])
        try:
            self.update(*args, **kwargs)
            # without a sync, what the base class wraps around `compute` costs more than `compute`
            value = self.compute() if self.dist_sync_on_step else type(self).compute(self)
            batch = getattr(self, self._state)
        except BaseException:
            self._hold(epoch)
            self._update_count, self._is_synced, self._cache = update_count, False, None
            raise
        finally:
            self._to_sync, self._computed = self.sync_on_compute, None
        self._hold(epoch)
        for rows in batch:
            self._append(rows)
        self._forward_cache: Any = value
        return value

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the images of another metric with the same options.

        Args:
            incoming_state: the metric, or its ``metric_state``.

        Raises:
            ValueError: if it has other options or is no state of this kind; nothing is merged then.
            TorchMetricsUserError: if this metric is synced.
        """
        if self._is_synced:
            raise TorchMetricsUserError(_SYNCED.format("merge_state"))
        updates = 1
        if isinstance(incoming_state, Metric):
            updates, incoming_state = incoming_state.update_count, incoming_state.metric_state
        if not isinstance(incoming_state, dict):
            raise ValueError(
                "Expected argument `incoming_state` to be a CLEvalMetric or its state "
                f"but got {incoming_state!r}"
            )
        self._reduce_states(incoming_state)
        self._computed = None
        self._update_count += updates

    def reset(self) -> None:
        """Forget all images."""
        # the base class empties the list itself, which a wrapper (`Running`) may still hold
        self._hold([])
        super().reset()

    def state_dict(  # type: ignore[override]
        self, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The state as one (n, columns) int64 tensor, if :meth:`persistent` was called."""
        saved = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self._persistent[self._state]:
            saved[prefix + self._state] = self._joined().clone()
        return saved

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + self._state
        if key in state_dict:
            try:
                rows = [part.clone() for part in self._checked(state_dict.pop(key), f"`{key}`")]
            except ValueError as error:
                error_msgs.append(str(error))
            else:
                self.reset()
                self._hold(rows)
                self._update_count = len(rows)
        elif self._persistent[self._state]:
            missing_keys.append(key)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Follow moves from device to device; never change a dtype."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self._computed = self._forward_cache = None
        if self._cache is not None:
            self._cache = {name: [move(part) for part in parts] for name, parts in self._cache.items()}
        return super()._apply(move, *args, **kwargs)

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        # Does what the base class' wrapper does, for a state that is on its device and needs no gradients.
        @functools.wraps(update)
        def all_or_nothing(*args: Any, **kwargs: Any) -> None:
            if self._is_synced:
                raise TorchMetricsUserError(_SYNCED.format("update"))
            update(*args, **kwargs)
            own = self.__dict__  # `nn.Module.__setattr__` would look for parameters in these, at some cost
            own["_update_count"] += 1
            own["_computed"] = None

        return all_or_nothing

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        cached = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def fresh(*args: Any, **kwargs: Any) -> Any:
            was_synced = self._is_synced
            try:
                return _copied(cached(*args, **kwargs))
            except BaseException:
                if self._is_synced and not was_synced:
                    self.unsync()
                raise

        return fresh

    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors, process_group: Any = None
    ) -> None:
        # the base class sends a float tensor for a rank without rows, which kills the process
        rows = self._joined().to(self.device)
        gathered = dist_sync_fn(rows, group=process_group or self.process_group)
        self._hold([part for part in gathered if len(part)])

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        if self._state not in incoming_state:
            raise ValueError(
                f"Expected a state {self._state!r}, that of a CLEvalMetric with the same options, but got "
                f"{', '.join(map(repr, incoming_state)) or 'an empty dict'}"
            )
        for part in self._checked(incoming_state[self._state], "the merged state"):
            self._append(part)

    def _checked(self, state: Any, what: str) -> list[Tensor]:
        """The tables in ``state`` that hold rows, on this metric's device; ValueError if they are no such."""
        parts = [state] if isinstance(state, Tensor) else list(state)
        parts = [part for part in parts if not isinstance(part, Tensor) or part.numel()]
        for part in parts:
            shape = tuple(part.shape) if isinstance(part, Tensor) else None
            if shape is None or part.dtype != torch.int64 or shape[1:] != (self._columns,):
                came = repr(part) if shape is None else f"{part.dtype} of shape {shape}"
                raise ValueError(f"Expected {what} to be int64 of shape (n, {self._columns}) but got {came}")
        return [part.to(self.device) for part in parts]

    def _rows(
        self, counts: IntTable, image_ids: Sequence[str | int | None], scale_counts: IntTable | None
    ) -> Tensor:
        """(n, columns) int64: key, counts, counts of each bin; one row of sums where images are not kept."""
        n = len(counts)
        table = np.empty((n, self._columns), dtype=np.int64)
        table[:, 0] = [image_key(image_id) for image_id in image_ids] if self.per_image else 1
        table[:, 1 : 1 + len(COUNTS)] = counts
        if scale_counts is not None:
            table[:, 1 + len(COUNTS) :] = scale_counts.reshape(n, -1)
        if n != 1 and not self.per_image:
            table = table.sum(axis=0, keepdims=True)
        return torch.from_numpy(table)

    def _append(self, rows: Tensor) -> None:
        """Add ``rows`` to the state, which stays a list of few tables: each longer than the next, or each one row.

        No list and no tensor of the state is ever changed in place: metrics of a compute group, wrappers
        and caches hold the same ones.
        """
        if not rows.shape[0]:
            return
        parts = [*getattr(self, self._state), rows.to("cpu" if self.compute_on_cpu else self.device)]
        if self.per_image:
            while len(parts) > 1 and parts[-2].shape[0] <= parts[-1].shape[0]:
                parts[-2:] = [self._join(parts[-2:])]
        elif len(parts) > _FEW:
            parts = [self._join(parts)]
        self._hold(parts)

    def _hold(self, parts: list[Tensor]) -> None:
        # a plain attribute: `nn.Module.__setattr__` would look for parameters and modules in it, at some cost
        object.__setattr__(self, self._state, parts)

    def _join(self, parts: list[Tensor]) -> Tensor:
        table = torch.cat(parts)
        return table if self.per_image else table.sum(0, True)

    def _joined(self) -> Tensor:
        parts = getattr(self, self._state)
        empty = torch.zeros((0, self._columns), dtype=torch.int64, device=self.device)
        return self._join(parts) if parts else empty

    def _distinct(self) -> IntTable:
        table: IntTable = self._joined().cpu().numpy()
        return distinct_rows(table) if self.per_image else table

    def _scores(self, table: IntTable) -> dict[str, float]:
        counts = table[:, 1 : 1 + len(COUNTS)]
        return all_scores(
            counts,
            table[:, 1 + len(COUNTS) :].reshape(len(table), len(self._bins), len(COUNTS)),
            self.rules,
            e2e=self.e2e,
            scale_bins=self.scale_bins,
            means=self.per_image,
            orientation=self.orientation,
        )


_FEW = 32
_ARRAYS = (Tensor, np.ndarray)
_SYNCED = "The metric is synced: `{}` would be lost. Call `unsync` first."


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return {name: _copied(item) for name, item in value.items()}


def _as_images(side: Any) -> Any:
    """A batch of polygons in one tensor or array as image dicts; anything else as it is."""
    if isinstance(side, _ARRAYS) and side.ndim >= 3:
        return [{"polygons": polygons} for polygons in side]
    return side
