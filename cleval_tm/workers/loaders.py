"""What can be swept (a loader, several, a function that makes them, a datamodule), and how it changes."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, IterableDataset

from cleval_tm.workers.search import Setting

Loaders: TypeAlias = "DataLoader[Any] | Mapping[Any, Loaders] | list[Loaders] | tuple[Loaders, ...]"

_STAGES = {"train": "fit", "val": "fit", "test": "test", "predict": "predict"}


@dataclass(frozen=True)
class Source:
    """Where the loaders of a sweep come from.

    Attributes:
        name: What is swept, for messages and for the result.
        make: Gives the loaders for a number of workers, as the user made them.
        current: The number of workers in use now; None if unknown.
        in_turn: Several loaders are run one after the other (as validation does) instead of side by side.
    """

    name: str | None
    make: Callable[[int], Loaders]
    current: int | None
    in_turn: bool

    def build(self, setting: Setting, timeout: float = 0.0) -> Any:
        """The loaders with a setting; all else stays as the user has it, the user's own objects untouched."""
        return changed(self.make(setting.num_workers), setting, timeout)


def source_of(source: Any, loader: str | None, current: int | None) -> Source:
    """Understand what the user handed in.

    Args:
        source: A DataLoader; a dict, list or tuple of them; a datamodule; or a function that makes any of the
            first, with or without an argument ``num_workers``.
        loader: The datamodule's method, ``"train_dataloader"`` by default; with other sources just a name.
        current: The number of workers in use now, where it is not the loader's own.

    Raises:
        TypeError: If it is none of these.
        ValueError: If there is no loader in it.
    """
    in_turn = loader is not None and not loader.startswith("train")
    method = getattr(source, loader or "train_dataloader", None)
    if callable(method):
        loader = loader or "train_dataloader"
        _set_up(source, loader)
        made: Loaders = method()
    elif isinstance(source, (DataLoader, Mapping, list, tuple)):
        made = source
    elif callable(source):
        return _of_function(source, loader, current, in_turn)
    else:
        raise TypeError(
            "Expected argument `source` to be a DataLoader, a dict or list of them, a function that makes "
            f"them, or a datamodule with `{loader or 'train_dataloader'}` but got {type(source).__name__}"
        )
    found = current_workers(made)
    return Source(loader, lambda workers: made, found if current is None else current, in_turn)


def _of_function(make: Callable[..., Any], name: str | None, current: int | None, in_turn: bool) -> Source:
    parameters = inspect.signature(make).parameters
    takes = "num_workers" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes:
        made = make()
        found = current_workers(made)
        return Source(name, lambda workers: made, found if current is None else current, in_turn)
    if current is None and "num_workers" in parameters:
        default = parameters["num_workers"].default
        current = default if isinstance(default, int) else None
    kept: dict[int, Loaders] = {}

    def made_for(workers: int) -> Loaders:
        if workers not in kept:
            kept[workers] = make(num_workers=workers)
            current_workers(kept[workers])
        return kept[workers]

    return Source(name, made_for, current, in_turn)


def _set_up(datamodule: Any, loader: str) -> None:
    """Prepare a datamodule as a Trainer would."""
    for name, arguments in (("prepare_data", ()), ("setup", (_STAGES.get(loader.split("_")[0], "fit"),))):
        method = getattr(datamodule, name, None)
        if callable(method):
            method(*arguments)


def leaves(loaders: Loaders) -> Iterator[DataLoader[Any]]:
    """All DataLoaders in a nest of them.

    Raises:
        TypeError: If there is something else in it.
    """
    if isinstance(loaders, DataLoader):
        yield loaders
    elif isinstance(loaders, Mapping):
        for value in loaders.values():
            yield from leaves(value)
    elif isinstance(loaders, (list, tuple)):
        for value in loaders:
            yield from leaves(value)
    else:
        raise TypeError(
            f"Expected a torch DataLoader, or a dict or list of them, but got {type(loaders).__name__}"
        )


def current_workers(loaders: Loaders) -> int:
    """The number of workers in use: the largest, where several loaders differ.

    Raises:
        TypeError: If there is something else than DataLoaders in it.
        ValueError: If there is none.
    """
    numbers = [one.num_workers for one in leaves(loaders)]
    if not numbers:
        raise ValueError(f"Expected at least one DataLoader but got an empty {type(loaders).__name__}")
    return max(numbers)


def changed(loaders: Loaders, setting: Setting, timeout: float = 0.0) -> Any:
    """Copies of loaders with a setting; dataset, sampler, collate function and all else are shared with the
    originals.

    A shallow copy keeps what a subclass added; its constructor need not be known.

    Args:
        loaders: A loader or a nest of them.
        setting: What to change.
        timeout: Seconds after which a batch counts as hung; a shorter one of the loader's own stays.
    """
    if isinstance(loaders, Mapping):
        return {key: changed(value, setting, timeout) for key, value in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [changed(value, setting, timeout) for value in loaders]
    twin = copy.copy(loaders)
    workers = setting.num_workers
    prefetch = setting.prefetch_factor or loaders.prefetch_factor or 2
    persistent = (
        loaders.persistent_workers if setting.persistent_workers is None else setting.persistent_workers
    )
    # The attributes of a DataLoader refuse assignment once it is made; its constructor may be a subclass's.
    vars(twin).update(
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=persistent and workers > 0,
        timeout=min(loaders.timeout or timeout, timeout or loaders.timeout) if workers else 0,
        _iterator=None,
    )
    return twin


def length(loaders: Loaders, in_turn: bool = False) -> int | None:
    """Batches in an epoch; None where a loader does not know (an iterable dataset without a length)."""
    lengths = []
    for one in leaves(loaders):
        try:
            lengths.append(len(one))
        except (TypeError, NotImplementedError):
            return None
    return sum(lengths) if in_turn else max(lengths)


def is_iterable(loaders: Loaders) -> bool:
    """Whether a loader reads an iterable dataset, whose workers must share its samples out by themselves."""
    return any(isinstance(one.dataset, IterableDataset) for one in leaves(loaders))


def batches(loaders: Loaders, in_turn: bool) -> Iterator[Any]:
    """One epoch, as a Trainer runs it.

    Args:
        loaders: One loader gives its batches. Several give, side by side, a batch of each in the same nest,
            until the longest has ended (shorter ones start anew); in turn, their batches one loader after the
            other.
        in_turn: Which of the two.
    """
    if isinstance(loaders, DataLoader):
        return iter(loaders)
    return _in_turn(loaders) if in_turn else _side_by_side(loaders)


def _in_turn(loaders: Loaders) -> Iterator[Any]:
    for one in leaves(loaders):
        yield from one


def _side_by_side(loaders: Loaders) -> Iterator[Any]:
    ones = list(leaves(loaders))
    iterators = [iter(one) for one in ones]
    ended: set[int] = set()
    while True:
        parts = []
        for place, one in enumerate(ones):
            try:
                parts.append(next(iterators[place]))
            except StopIteration:
                ended.add(place)
                if len(ended) == len(ones):
                    return
                iterators[place] = iter(one)
                parts.append(next(iterators[place]))
        yield _nested(loaders, iter(parts))


def _nested(loaders: Loaders, parts: Iterator[Any]) -> Any:
    if isinstance(loaders, Mapping):
        return {key: _nested(value, parts) for key, value in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [_nested(value, parts) for value in loaders]
    return next(parts)


def tensor_bytes(batch: Any) -> int:
    """Bytes of all tensors in a batch: what a worker hands over in shared memory."""
    if isinstance(batch, torch.Tensor):
        return batch.untyped_storage().nbytes()
    if isinstance(batch, Mapping):
        return sum(map(tensor_bytes, batch.values()))
    if isinstance(batch, (list, tuple)):
        return sum(map(tensor_bytes, batch))
    return sum(map(tensor_bytes, vars(batch).values())) if hasattr(batch, "__dataclass_fields__") else 0


def living_workers(before: set[int]) -> list[multiprocessing.process.BaseProcess]:
    """Processes started by this one since ``before`` (their ids) and still alive."""
    return [child for child in multiprocessing.active_children() if child.pid not in before]


def forget_workers(loaders: Any) -> None:
    """Let go of persistent workers, which a loader keeps between epochs; they end when nobody holds them."""
    for one in leaves(loaders):
        vars(one)["_iterator"] = None
