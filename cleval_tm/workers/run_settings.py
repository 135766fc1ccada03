"""How a Lightning run was set up: loaders, devices, versions, CPU budget."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from cleval_tm._version import __version__
from cleval_tm.workers.budget import cpu_budget

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_PHASES = {
    "train": "train_dataloader",
    "val": "val_dataloaders",
    "test": "test_dataloaders",
    "predict": "predict_dataloaders",
}


def run_settings(trainer: Trainer) -> dict[str, Any]:
    """What is known before the first batch, as plain data."""
    device = trainer.strategy.root_device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    local_ranks = max(1, trainer.num_devices if trainer.world_size > 1 else 1)
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": name,
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "global_rank": trainer.global_rank,
        "local_ranks": local_ranks,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "cpu_budget": cpu_budget(local_ranks).cpus,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cleval-tm": __version__, "torch": torch.__version__}
    for name in ("lightning", "pytorch-lightning", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def loader_settings(trainer: Trainer) -> dict[str, list[dict[str, Any]]]:
    """The settings of every DataLoader that the trainer has by now, by phase."""
    found = {}
    for phase, attribute in _PHASES.items():
        loaders = [
            _of_loader(name, loader) for name, loader in _flatten(getattr(trainer, attribute, None), "")
        ]
        if loaders:
            found[phase] = loaders
    return found


def _flatten(loaders: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every single loader in a loader, list, dict or CombinedLoader of them, with its place in it."""
    if loaders is None:
        return
    if hasattr(loaders, "iterables") and hasattr(loaders, "flattened"):  # Lightning's CombinedLoader
        loaders = loaders.iterables
    if isinstance(loaders, Mapping):
        for key, loader in loaders.items():
            yield from _flatten(loader, f"{name}.{key}" if name else str(key))
    elif isinstance(loaders, (list, tuple)):
        for index, loader in enumerate(loaders):
            yield from _flatten(loader, f"{name}.{index}" if name else str(index))
    else:
        yield name, loaders


def _of_loader(name: str, loader: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "class": type(loader).__qualname__}
    if isinstance(loader, DataLoader):
        found |= {
            "num_workers": loader.num_workers,
            "batch_size": loader.batch_size or getattr(loader.batch_sampler, "batch_size", None),
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "pin_memory": loader.pin_memory,
            "drop_last": loader.drop_last,
        }
    try:
        found["batches"] = len(loader)
    except TypeError:  # an iterable dataset has no length
        found["batches"] = None
    return found


def write_json(path: Path, data: Any) -> None:
    """Writes ``data`` as JSON; the file is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
