"""What workers take of memory and shared memory, and whether more of them would fit."""

from __future__ import annotations

from typing import Any

from cleval_tm.workers.budget import available_memory, free_shared_memory, processes_memory
from cleval_tm.workers.loaders import living_workers, tensor_bytes
from cleval_tm.workers.search import Setting

_SPARE = 0.9
_PREFETCH = 2


class MemoryUse:
    """Learns from the candidates measured so far what the next one would take."""

    def __init__(self) -> None:
        self._batch_bytes = 0
        self._per_worker = 0.0
        self._prefetch: int | None = None
        self._measured: set[int] = set()

    def saw(self, batch: Any) -> None:
        """Take note of a batch's size."""
        self._batch_bytes = max(self._batch_bytes, tensor_bytes(batch))

    def wanted(self, num_workers: int) -> bool:
        """Whether the memory of so many workers is not known yet."""
        return num_workers > 0 and num_workers not in self._measured

    def measure(self, num_workers: int, prefetch_factor: int | None, before: set[int]) -> int:
        """Measure the memory, in bytes, of the workers alive now.

        Args:
            num_workers: How many there are.
            prefetch_factor: The loader's.
            before: Ids of this process's other children.
        """
        self._measured.add(num_workers)
        self._prefetch = prefetch_factor
        memory = processes_memory(child.pid for child in living_workers(before) if child.pid)
        self._per_worker = max(self._per_worker, memory / num_workers)
        return memory

    def forget(self) -> None:
        """Measure anew, of each number of workers; what one takes at most stays known."""
        self._measured.clear()

    def fits(self, setting: Setting, local_ranks: int) -> str | None:
        """Why a setting would not fit, by what smaller ones took; None if it does."""
        if not setting.num_workers:
            return None
        needed, free = setting.num_workers * self._per_worker, available_memory(local_ranks)
        if needed > _SPARE * free:
            return f"it would need about {_size(needed)} of memory, and {_size(free)} are free"
        prefetch = setting.prefetch_factor or self._prefetch or _PREFETCH
        shared = setting.num_workers * prefetch * self._batch_bytes
        room = free_shared_memory()
        if room is not None and shared > _SPARE * room / local_ranks:
            return (
                f"its prefetched batches would need about {_size(shared)} of shared memory, and "
                f"{_size(room / local_ranks)} are free"
            )
        return None


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
