"""What a training process may use: CPUs, memory, shared memory. Files of the kernel, psutil, and no torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROCESS_CGROUP = Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")

_RANK_COUNTS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


@dataclass(frozen=True)
class CpuBudget:
    """The CPUs that one rank may keep busy.

    Attributes:
        cpus: CPUs for this rank; a fraction where a quota or several ranks say so.
        affinity: CPUs that the process may run on (``taskset``, cpusets).
        quota: CPUs that the cgroups grant it (container limits), the least over all levels; None without a
            limit.
        local_ranks: Training processes on this machine that share the two above.
    """

    cpus: float
    affinity: int
    quota: float | None
    local_ranks: int

    def __str__(self) -> str:
        parts = [f"{self.affinity} by affinity"]
        if self.quota is not None:
            parts.append(f"{self.quota:g} by cgroup quota")
        if self.local_ranks > 1:
            parts.append(f"shared by {self.local_ranks} ranks")
        return f"{self.cpus:g} CPUs ({', '.join(parts)})"


def cpu_budget(
    local_ranks: int | None = None,
    *,
    cgroup_root: str | os.PathLike[str] = CGROUP_ROOT,
    process_cgroup: str | os.PathLike[str] = PROCESS_CGROUP,
) -> CpuBudget:
    """How many CPUs this process may keep busy: min(affinity, cgroup quota) over the ranks that share them.

    ``os.cpu_count()`` counts the machine; a container, a batch system or ``taskset`` often gives a job less.

    Args:
        local_ranks: Training processes on this machine; None asks the launcher's environment (torchrun, Open
            MPI, Slurm), and takes 1 where it says nothing.
        cgroup_root: Where the control groups are mounted, version 1, version 2 or both.
        process_cgroup: The file that lists the groups of this process.

    Returns:
        The budget. ``min(affinity, quota) / local_ranks``, not rounded.

    Raises:
        ValueError: If ``local_ranks`` is less than 1.

    Example:
        >>> budget = cpu_budget(local_ranks=1)
        >>> 0 < budget.cpus <= os.cpu_count()
        True
        >>> cpu_budget(local_ranks=2).cpus == budget.cpus / 2
        True

    Source:
        Linux, Documentation/admin-guide/cgroup-v2.rst (``cpu.max``) and scheduler/sched-bwc.rst
        (``cpu.cfs_quota_us``).
    """
    affinity = _affinity()
    quota = cpu_quota(cgroup_root, process_cgroup)
    ranks = _local_ranks(os.environ, affinity) if local_ranks is None else local_ranks
    if ranks < 1:
        raise ValueError(f"Expected argument `local_ranks` to be 1 or more but got {ranks}")
    return CpuBudget(min(affinity, quota or affinity) / ranks, affinity, quota, ranks)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _local_ranks(environ: Mapping[str, str], affinity: int) -> int:
    for name in _RANK_COUNTS:
        if environ.get(name, "").isdigit() and int(environ[name]) > 0:
            return int(environ[name])
    # Slurm usually binds each task to its own CPUs: then the affinity is the rank's share already.
    if environ.get("SLURM_CPUS_PER_TASK", "").isdigit() and affinity <= int(environ["SLURM_CPUS_PER_TASK"]):
        return 1
    tasks = re.match(r"[1-9]\d*", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return int(tasks.group()) if tasks else 1


def cpu_quota(
    cgroup_root: str | os.PathLike[str] = CGROUP_ROOT,
    process_cgroup: str | os.PathLike[str] = PROCESS_CGROUP,
) -> float | None:
    """The CPU quota of this process's control groups: the least over all levels, in CPUs; else None."""
    quotas = []
    for folder in _groups(Path(cgroup_root), Path(process_cgroup), "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        micros, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if micros is not None and period and micros > 0:
            quotas.append(micros / period)
    return min(quotas, default=None)


def available_memory(
    local_ranks: int = 1,
    *,
    cgroup_root: str | os.PathLike[str] = CGROUP_ROOT,
    process_cgroup: str | os.PathLike[str] = PROCESS_CGROUP,
) -> int:
    """Bytes of memory that this rank may still take: what is free of machine and cgroups, over the local
    ranks.

    Page cache counts as free: the kernel gives it back.
    """
    import psutil

    free = [int(psutil.virtual_memory().available)]
    for folder in _groups(Path(cgroup_root), Path(process_cgroup), "memory"):
        for limit_name, usage_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                cache = re.search(rf"^{cache_name} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                free.append(max(0, limit - usage + (int(cache.group(1)) if cache else 0)))
    return min(free) // local_ranks


def free_shared_memory(path: str | os.PathLike[str] = SHARED_MEMORY) -> int | None:
    """Bytes free in shared memory, through which workers hand over batches; None where it has no folder."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def processes_memory(pids: Iterable[int]) -> int:
    """Memory of processes in bytes: PSS (a page shared by n counts 1/n for each), where the system tells;
    else RSS.

    Processes that have ended meanwhile count nothing.
    """
    import psutil

    total = 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            try:
                info = process.memory_full_info()
                total += int(getattr(info, "pss", 0) or info.uss)
            except psutil.AccessDenied:
                total += int(process.memory_info().rss)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


def _groups(root: Path, process_cgroup: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group and of all groups above it, in both versions.

    Inside a container the process's path is often that of the host and not there; its own group is then the
    root of the mount, which is always among the folders.
    """
    paths: dict[str, str] = {}
    for line in _text(process_cgroup).splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        for name in names.split(","):
            paths[name] = path
    mounts = [(root, paths.get("", "/")), (root / "unified", paths.get("", "/"))]
    names_on_disk = ("cpu", "cpu,cpuacct", "cpuacct,cpu") if controller == "cpu" else (controller,)
    mounts += [(root / name, paths.get(controller, "/")) for name in names_on_disk]
    for mount, path in mounts:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
