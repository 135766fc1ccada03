"""Several real processes over gloo: the metric's sync, and files evaluated under torchrun."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_metric import BINS, bits, images, updated
from torchmetrics import MetricCollection

from cleval_tm import CLEvalMetric, evaluate
from cleval_tm.distributed import evaluate_sharded

RANKS = 3
COLLECTIVES = ("all_gather", "all_reduce", "barrier", "broadcast", "gather", "all_gather_into_tensor")


def shard(rank: int, count: int = 17, ids: bool = True):
    """Uneven: rank 0 has most images, rank 2 none."""
    preds, target = images(count, ids=ids)
    share = [slice(0, 12), slice(12, count), slice(count, count)][rank]
    return preds[share], target[share]


def rows(rank: int, seen: Counter[str]) -> dict[str, Any]:
    metric = updated(CLEvalMetric(scale_bins=BINS), *shard(rank))
    local = metric.update_count, len(metric._joined())
    seen.clear()
    scores = bits(metric.compute())
    collectives = dict(seen)
    counts = metric.compute_counts()
    assert (metric.update_count, len(metric._joined())) == local
    assert not metric._is_synced
    return {"scores": scores, "counts": counts, "collectives": collectives}


def sums(rank: int, seen: Counter[str]) -> dict[str, Any]:
    metric = updated(CLEvalMetric(per_image=False), *shard(rank, ids=False))
    scores, collectives = bits(metric.compute()), dict(seen)
    return {"scores": scores, "counts": metric.compute_counts(), "collectives": collectives}


def empty_lists(rank: int, seen: Counter[str]) -> dict[str, Any]:
    metric = CLEvalMetric()
    preds, target = shard(rank)
    metric.update(preds, target)  # two empty lists on rank 2
    metric.update([], [])
    return {"scores": bits(metric.compute())}


def nothing_anywhere(rank: int, seen: Counter[str]) -> dict[str, Any]:
    return {
        f"per_image={per_image}": CLEvalMetric(per_image=per_image).compute_counts()
        for per_image in (True, False)
    }


def repeated(rank: int, seen: Counter[str]) -> dict[str, Any]:
    """Each rank sees the first images once more, as a padding sampler has it."""
    metric = updated(CLEvalMetric(), *shard(rank))
    updated(metric, *(side[:3] for side in shard(0)))
    return {"scores": bits(metric.compute()), "counts": metric.compute_counts()}


def without_ids(rank: int, seen: Counter[str]) -> dict[str, Any]:
    return {"counts": updated(CLEvalMetric(), *shard(rank, ids=False)).compute_counts()}


def in_forward(rank: int, seen: Counter[str]) -> dict[str, Any]:
    metric = CLEvalMetric(dist_sync_on_step=True)
    preds, target = images(9)
    steps = [slice(start + rank, start + rank + 1) for start in (0, 3, 6)]
    batches = [bits(metric(preds[step], target[step])) for step in steps]
    return {"batches": batches, "scores": bits(metric.compute())}


def collection(rank: int, seen: Counter[str]) -> dict[str, Any]:
    both = MetricCollection({"det": CLEvalMetric(score="det_hmean"), "e2e": CLEvalMetric(score="e2e_hmean")})
    both.update(*shard(rank))
    return {"scores": bits(both.compute())}


def after_merging(rank: int, seen: Counter[str]) -> dict[str, Any]:
    metric, other = CLEvalMetric(), updated(CLEvalMetric(), *shard(rank))
    metric.merge_state(other)
    metric.half()
    return {"scores": bits(metric.compute())}


SCENES = (
    rows,
    sums,
    empty_lists,
    nothing_anywhere,
    repeated,
    without_ids,
    in_forward,
    collection,
    after_merging,
)


def run_rank(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    seen: Counter[str] = Counter()
    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name), seen))
    results = {}
    for scene in SCENES:
        seen.clear()
        results[scene.__name__] = scene(rank, seen)
    Path(folder, f"rank_{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def counted(name: str, collective: Any, seen: Counter[str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        seen[name] += 1
        return collective(*args, **kwargs)

    return call


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(str(folder),), nprocs=RANKS)
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(RANKS)]


def of_one_process(**options: Any) -> CLEvalMetric:
    return updated(CLEvalMetric(**options), *images(17))


@pytest.mark.parametrize(
    ("scene", "options"),
    [
        ("rows", {"scale_bins": BINS}),
        ("sums", {"per_image": False}),
        ("empty_lists", {}),
        ("repeated", {}),
        ("after_merging", {}),
    ],
)
def test_ranks_give_the_bits_of_one_process(ranks, scene, options):
    truth = of_one_process(**options)
    for rank in ranks:
        assert rank[scene]["scores"] == bits(truth.compute())
        assert rank[scene].get("counts", truth.compute_counts()) == truth.compute_counts()


@pytest.mark.parametrize("scene", ["rows", "sums"])
def test_a_sync_costs_the_collectives_of_one_state(ranks, scene):
    for rank in ranks:
        assert 0 < sum(rank[scene]["collectives"].values()) <= 4


def test_ranks_that_saw_nothing_at_all(ranks):
    for rank in ranks:
        assert all(set(counts.values()) == {0} for counts in rank["nothing_anywhere"].values())


def test_images_without_ids_all_count_on_all_ranks(ranks):
    for rank in ranks:
        assert rank["without_ids"]["counts"] == of_one_process().compute_counts()


def test_forward_may_sync(ranks):
    preds, target = images(9)
    for rank in ranks:
        for step, batch in enumerate(rank["in_forward"]["batches"]):
            some = slice(3 * step, 3 * step + 3)
            assert batch == bits(updated(CLEvalMetric(), preds[some], target[some]).compute())
        assert rank["in_forward"]["scores"] == bits(updated(CLEvalMetric(), preds, target).compute())


def test_a_collection_over_ranks(ranks):
    truth = bits(of_one_process().compute())
    for rank in ranks:
        assert rank["collection"]["scores"] == {"det": truth["det_hmean"], "e2e": truth["e2e_hmean"]}


# ---------------------------------------------------------------- torchrun

# an accident in rank 1, then the command
ACCIDENT = """
import os, sys, time
import cleval_tm.distributed as room

def accident(*args, **options):
    {accident}

if os.environ["RANK"] == "1":
    room.count_images = accident
from cleval_tm.cli import main
main()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Ground truth and results of 11 images, as folders of text files."""
    folder = tmp_path_factory.mktemp("files")
    for side in ("gt", "res"):
        (folder / side).mkdir()
    for number in range(11):
        words = [f"{x},10,{x + 80},10,{x + 80},30,{x},30,word{x}" for x in (10, 110, 210)]
        (folder / "gt" / f"img_{number}.txt").write_text("\n".join(words))
        (folder / "res" / f"img_{number}.txt").write_text("\n".join(words[: number % 4]).replace("d1", "d9"))
    return folder


def torchrun(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["evaluate", "-g", str(folder / "gt"), "-s", str(folder / "res"), "--scale-bins", "0,0.05,1"]
    return subprocess.run(
        [*launcher, *command, *arguments, "--image-sizes", "400x200", "--json", str(folder / "two.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CLEVAL_TM_TIMEOUT": "30", **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_torchrun_gives_the_bits_of_one_process(files):
    run = torchrun(files, "-m", "cleval_tm")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("detection, image mean") == 1
    sides = [
        "-g",
        str(files / "gt"),
        "-s",
        str(files / "res"),
        "--scale-bins",
        "0,0.05,1",
        "--image-sizes",
        "400x200",
    ]
    alone = subprocess.run(
        [sys.executable, "-m", "cleval_tm", "evaluate", *sides, "--json", str(files / "one.json")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert alone.returncode == 0, alone.stderr
    assert (files / "two.json").read_bytes() == (files / "one.json").read_bytes()


@pytest.mark.parametrize(
    ("accident", "message"),
    [
        ("os._exit(3)", "exitcode  : 3"),
        ("time.sleep(60)", "did not answer within 5 s"),
        ("raise ValueError(\"Expected preds[0] (image_id 'img_1') to be right\")", "rank 1.*img_1"),
    ],
    ids=["dies", "hangs", "bad image"],
)
def test_an_accident_in_one_rank_ends_the_command(files, tmp_path, accident, message):
    script = tmp_path / "command.py"
    script.write_text(ACCIDENT.format(accident=accident))
    start = time.monotonic()
    run = torchrun(files, str(script), CLEVAL_TM_TIMEOUT="5", PYTHONPATH=str(Path(__file__).parent.parent))
    assert run.returncode != 0
    assert time.monotonic() - start < 50
    assert re.search(message, run.stderr, re.S), run.stderr
    assert "detection, image mean" not in run.stdout


def test_a_timeout_that_is_none_is_an_error(monkeypatch):
    image = {"boxes": [[0, 0, 40, 10]], "texts": ["word"]}
    for setting in ("TORCHELASTIC_RUN_ID=x", "RANK=0", "WORLD_SIZE=2", "CLEVAL_TM_TIMEOUT=soon"):
        monkeypatch.setenv(*setting.split("="))
    with pytest.raises(ValueError, match="CLEVAL_TM_TIMEOUT to be seconds above 0 but got 'soon'"):
        evaluate_sharded([image], [image])


def test_alone_it_is_evaluate(monkeypatch):
    monkeypatch.setenv("RANK", "0")  # schedulers set these for every command
    monkeypatch.setenv("WORLD_SIZE", "8")
    preds, target = images(5)
    result = evaluate_sharded(preds, target, scale_bins=BINS)
    assert result.scores() == evaluate(preds, target, scale_bins=BINS).scores()
    broken = [{"polygons": [[0, 0, float("nan"), 0, 5, 5, 0, 5]], "texts": ["x"]}, *preds[1:]]
    with pytest.raises(ValueError, match=r"^Expected.*preds\[0\]"):
        evaluate_sharded(broken, target)
    with pytest.raises(ValueError, match="equally many"):
        evaluate_sharded(preds, target[:3])
