"""CPUs, memory and shared memory that a process really has, on fake control groups and under taskset."""

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("psutil")

from cleval_tm.workers.budget import (
    CpuBudget,
    available_memory,
    cpu_budget,
    cpu_quota,
    free_shared_memory,
    processes_memory,
)

GIB = 2**30


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "MPI_")) or name == "LOCAL_WORLD_SIZE":
            monkeypatch.delenv(name)


@pytest.fixture
def cgroup(tmp_path):
    """Write files of a fake control group file system; returns the arguments that point there."""

    def make(files, process="0::/\n"):
        root = tmp_path / "cgroup"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        (tmp_path / "proc").write_text(process)
        return {"cgroup_root": root, "process_cgroup": tmp_path / "proc"}

    return make


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "process", "quota"),
    [
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        # inside a container, the host's path of the group is not there
        ({"cpu.max": "200000 100000"}, "0::/kubepods/pod1/abc\n", 2.0),
        # a limit on any level binds
        ({"user/cpu.max": "100000 100000", "user/job/cpu.max": "400000 100000"}, "0::/user/job\n", 1.0),
        ({"user/cpu.max": "max 100000", "user/job/cpu.max": "50000 100000"}, "0::/user/job\n", 0.5),
        # a sibling's limit does not
        ({"other/cpu.max": "100000 100000"}, "0::/user\n", None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", 3.0),
        (
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "25000",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "50000",
            },
            "4:cpu,cpuacct:/docker/x\n0::/\n",
            0.5,
        ),
        # both versions at once (hybrid): the least counts
        (
            {
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
                "unified/cpu.max": "200000 100000",
            },
            "3:cpu:/\n0::/\n",
            2.0,
        ),
    ],
)
def test_quota(cgroup, files, process, quota):
    assert cpu_quota(**cgroup(files, process)) == quota


def test_budget_is_the_least_of_affinity_and_quota(cgroup, eight_cpus):
    assert cpu_budget(**cgroup({})) == CpuBudget(8, 8, None, 1)
    assert cpu_budget(**cgroup({"cpu.max": "250000 100000"})) == CpuBudget(2.5, 8, 2.5, 1)
    assert cpu_budget(**cgroup({"cpu.max": "6400000 100000"})).cpus == 8


def test_budget_is_shared_by_local_ranks(cgroup, eight_cpus, monkeypatch):
    fake = cgroup({"cpu.max": "600000 100000"})
    assert cpu_budget(4, **fake) == CpuBudget(1.5, 8, 6.0, 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cpu_budget(**fake).cpus == 3
    assert cpu_budget(1, **fake).cpus == 6
    with pytest.raises(ValueError, match="local_ranks` to be 1 or more but got 0"):
        cpu_budget(0, **fake)


def test_slurm_tasks_share_unless_bound(cgroup, eight_cpus, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert cpu_budget(**cgroup({})).cpus == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert cpu_budget(**cgroup({})).cpus == 8


def test_budget_reads_well(cgroup, eight_cpus):
    budget = cpu_budget(2, **cgroup({"cpu.max": "300000 100000"}))
    assert str(budget) == "1.5 CPUs (8 by affinity, 3 by cgroup quota, shared by 2 ranks)"


@pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed")
def test_taskset_changes_the_budget():
    code = "from cleval_tm.workers import cpu_budget; print(cpu_budget(1).affinity, cpu_budget(1).cpus)"
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(cpu), sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    affinity, cpus = done.stdout.split()
    assert int(affinity) == 1
    assert float(cpus) <= 1


def test_unreadable_files_are_no_limit(cgroup):
    assert cpu_quota(**cgroup({"cpu.max": "what is this"})) is None
    assert cpu_quota(**cgroup({"cpu/cpu.cfs_quota_us": ""})) is None


@pytest.mark.parametrize(
    ("files", "process"),
    [
        (
            {
                "memory.max": str(GIB // 2),
                "memory.current": str(GIB // 4),
                "memory.stat": "anon 5\ninactive_file 100",
            },
            "0::/\n",
        ),
        (
            {
                "memory/memory.limit_in_bytes": str(GIB // 2),
                "memory/memory.usage_in_bytes": str(GIB // 4),
                "memory/memory.stat": "cache 7\ntotal_inactive_file 100",
            },
            "4:memory:/host/path\n",
        ),
    ],
)
def test_available_memory_obeys_the_cgroup(cgroup, files, process):
    fake = cgroup(files, process)
    assert available_memory(**fake) == GIB // 4 + 100
    assert available_memory(2, **fake) == (GIB // 4 + 100) // 2


def test_available_memory_without_limit_is_the_machines(cgroup):
    import psutil

    assert (
        0
        < available_memory(**cgroup({"memory.max": "max", "memory.current": "5"}))
        <= psutil.virtual_memory().total
    )


def test_shared_memory(tmp_path):
    assert free_shared_memory(tmp_path) > 0
    assert free_shared_memory(tmp_path / "missing") is None


def test_memory_of_processes():
    code = "import sys; held = b'x' * (64 * 2**20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        held = processes_memory([child.pid])
        child.communicate()
    assert 64 * 2**20 < held < 256 * 2**20
    assert processes_memory([child.pid]) == 0
