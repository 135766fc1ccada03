"""The metric, the evaluator and the callback on accelerators: the same bits as one CPU process?

    torchrun --standalone --nproc-per-node 2 benchmarks/gpu_check.py              # two GPUs, NCCL
    torchrun --standalone --nproc-per-node 2 benchmarks/gpu_check.py --device cpu # two processes, gloo
    python benchmarks/gpu_check.py                                                # one process

Every rank computes the truth by itself, on the CPU, without a process group; then the ranks score shards on their
devices, in bfloat16 too, under torch.distributed and under a Lightning Trainer. Prints one line a check, and fails
if one fails. Needs no files.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))

from cleval_tm import CLEvalMetric, evaluate
from cleval_tm.lightning import CLEvalEvaluator

BINS = (0, 0.02, 0.1, 1)


def documents(count: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pages of words on lines, and detections that miss, split, merge and misread some of them."""
    rng = np.random.default_rng(seed)
    preds, target = [], []
    for number in range(count):
        words, found, texts, read = [], [], [], []
        for line in range(12):
            left = int(rng.integers(5, 40))
            while left < 560:
                width, height = int(rng.integers(20, 90)), int(rng.integers(12, 22))
                words.append([left, 30 * line, left + width, 30 * line + height])
                texts.append("".join(rng.choice(list("abcdefg"), size=max(1, width // 12))))
                if rng.random() < 0.9:
                    found.append(np.array(words[-1]) + rng.integers(-3, 4, 4) * [1, 1, 1, 1])
                    read.append(texts[-1] if rng.random() < 0.8 else texts[-1][::-1])
                left += width + int(rng.integers(2, 15))
        ignore = rng.random(len(words)) < 0.1
        target.append(
            {
                "boxes": torch.tensor(words),
                "texts": texts,
                "ignore": torch.tensor(ignore),
                "image_size": (400, 600),
                "image_id": f"page_{number}",
            }
        )
        preds.append({"boxes": torch.tensor(np.array(found)), "texts": read})
    return preds, target


def on(device: torch.device, images: list[dict[str, Any]], dtype: torch.dtype) -> list[dict[str, Any]]:
    """Images with their tensors on a device, boxes in a dtype."""
    return [
        {
            key: value.to(device, dtype if key == "boxes" else value.dtype)
            if torch.is_tensor(value)
            else value
            for key, value in image.items()
        }
        for image in images
    ]


def bits(result: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in result.items()}


class Checks:
    """Compares, prints on rank 0, and remembers whether all held."""

    def __init__(self, rank: int) -> None:
        self.rank, self.failed = rank, 0

    def __call__(self, what: str, came: Any, expected: Any) -> None:
        holds = came == expected
        self.failed += not holds
        if self.rank == 0 or not holds:
            print(f"rank {self.rank}: {'equal ' if holds else 'DIFFER'}  {what}", flush=True)
            if not holds:
                print(f"    came     {came}\n    expected {expected}", flush=True)


def shard_of(rank: int, world: int, count: int) -> list[int]:
    """Uneven shards; the last of several ranks sees nothing, and every rank repeats rank 0's first image."""
    share = [] if world > 2 and rank == world - 1 else list(range(rank, count, max(1, world - (world > 2))))
    return [*share, 0]


def check_metric(check: Checks, device: torch.device, rank: int, world: int, images: Any) -> None:
    preds, target = images
    truth = evaluate(preds, target, scale_bins=BINS)
    scores = {name: float(np.float32(value)) for name, value in truth.scores().items()}
    chosen = shard_of(rank, world, len(preds))
    for dtype in (torch.float32, torch.bfloat16):
        # small integers are exact in bfloat16; others would be other shapes
        exact = preds if dtype is torch.float32 else None
        if exact is None:
            rounded = [on(torch.device("cpu"), side, dtype) for side in (preds, target)]
            truth = evaluate(*rounded, scale_bins=BINS)
            scores = {name: float(np.float32(value)) for name, value in truth.scores().items()}
        mine = [on(device, [side[i] for i in chosen], dtype) for side in (preds, target)]
        for sums in (False, True):
            metric = CLEvalMetric(scale_bins=BINS, per_image=not sums).to(device)
            batch = [side[:-1] if sums else side for side in mine]  # sums count repeated images again
            for start in range(0, len(batch[0]), 4):
                metric.update(*(side[start : start + 4] for side in batch))
            metric.half()
            metric.set_dtype(torch.bfloat16)
            result = metric.compute()
            kept = {name: value for name, value in scores.items() if name in result}
            what = f"CLEvalMetric, {str(dtype).removeprefix('torch.')}, {'sums' if sums else 'rows'}"
            where = {value.device.type for value in result.values()}
            check(f"{what}: scores on {device.type}", (bits(result), where), (kept, {device.type}))
            check(f"{what}: counts", metric.compute_counts(), truth.totals())
            state = {(part.device.type, part.dtype) for part in metric.metric_state[metric._state]}
            check(f"{what}: state", state or {(device.type, torch.int64)}, {(device.type, torch.int64)})


def check_copies(check: Checks, device: torch.device, images: Any) -> None:
    """How many copies from the device an update of 16 images makes."""
    if device.type != "cuda":
        return
    batch = [on(device, side[:16], torch.float32) for side in images]
    metric = CLEvalMetric().to(device)
    metric.update(*batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        metric.update(*batch)
        torch.cuda.synchronize(device)
    copies = sum(event.count for event in profile.key_averages() if "DtoH" in event.key)
    check("copies to the host in an update of 16 images", copies, 1)


class Pages(Dataset):
    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pred": self.images[0][index], "target": self.images[1][index]}


def check_trainer(check: Checks, device: torch.device, world: int, images: Any) -> None:
    """The callback, the evaluator and a metric in bf16-true under a Trainer over all ranks."""
    try:
        import lightning.pytorch as pl
    except ImportError:
        print("Lightning is not installed: the Trainer was not checked")
        return
    from cleval_tm.lightning import CLEvalCallback

    preds, target = images
    polygons = [image["boxes"][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).numpy() for image in target]
    dataset = SimpleNamespace(
        anns={image["image_id"]: shapes for image, shapes in zip(target, polygons, strict=True)}
    )

    def predictions(some: Any, device: torch.device) -> list[dict[str, Any]]:
        corners = [image["boxes"][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) for image in some]
        return [{"boxes": list(boxes.to(device)), "raw_size": (600, 400)} for boxes in corners]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.metric = CLEvalMetric()
            self.evaluator = CLEvalEvaluator(dataset)
            self.found: dict[str, Any] = {}

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = [item["pred"] for item in batch]
            targets = [item["target"] for item in batch]
            assert outputs[0]["boxes"].device.type == self.device.type == self.metric.device.type
            self.metric.update(outputs, targets)
            names = [image["image_id"] for image in targets]
            self.evaluator.update(names, predictions(outputs, self.device))
            return outputs

        def on_validation_epoch_end(self) -> None:
            self.found = {"metric": bits(self.metric.compute()), "evaluator": self.evaluator.compute()}

    def extract(outputs: Any, batch: Any) -> Any:
        return outputs, [item["target"] for item in batch]

    module = Module()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=world,
            strategy="ddp" if world > 1 else "auto",
            precision="bf16-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[CLEvalCallback(extract, prefix="callback")],
        )
        # integer boxes, which a module in bf16 leaves alone
        loader = DataLoader(Pages(images), batch_size=4, collate_fn=list)
        trainer.validate(module, loader, verbose=False)
    scores = {name: float(np.float32(value)) for name, value in evaluate(preds, target).scores().items()}
    check("Trainer, bf16-true: CLEvalMetric", module.found["metric"], scores)
    logged = {
        name.removeprefix("callback/"): float(value) for name, value in trainer.callback_metrics.items()
    }
    check("Trainer, bf16-true: CLEvalCallback", logged, scores)
    alone = CLEvalEvaluator(dataset)
    os_world = alone.metric.sync_on_compute
    alone.metric._to_sync = False  # the truth is this process's own
    alone.update([image["image_id"] for image in target], predictions(preds, torch.device("cpu")))
    check("Trainer, bf16-true: CLEvalEvaluator", module.found["evaluator"], alone.compute())
    assert os_world


def time_of_update(device: torch.device, images: Any) -> float:
    batch = [on(device, side[:16], torch.float32) for side in images]
    metric = CLEvalMetric().to(device)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        metric.update(*batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--images", type=int, default=37)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(
        options.device, int(os.environ.get("LOCAL_RANK", 0)) if options.device == "cuda" else None
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    images = documents(options.images)
    check = Checks(rank)
    if rank == 0:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"torch {torch.__version__}, {world} x {name}, {options.images} images", flush=True)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=120))
    check_metric(check, device, rank, world, images)
    check_copies(check, device, images)
    check_trainer(check, device, world, images)
    if rank == 0:
        milliseconds = {place.type: time_of_update(place, images) for place in (torch.device("cpu"), device)}
        print(
            "update of 16 images:",
            ", ".join(f"{ms:.2f} ms from {place}" for place, ms in milliseconds.items()),
        )
    failed = torch.tensor(check.failed, device=device)
    if world > 1:
        dist.all_reduce(failed)
        dist.destroy_process_group()
    if rank == 0:
        print("all figures equal" if not failed else f"{int(failed)} checks failed")
    return int(failed.item() > 0)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # gloo's threads now and then abort a process that has done all its work while the interpreter shuts down
    os._exit(code)
