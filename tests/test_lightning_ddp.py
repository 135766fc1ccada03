"""A real Trainer over two processes: padding, sync, logging, and checkpoints in the middle of an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pl = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed (extra `lightning`)")

from test_lightning import Detector, Pages, collate, extract, fed, receipts  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from cleval_tm import CLEvalMetric  # noqa: E402
from cleval_tm.lightning import CLEvalCallback, CLEvalEvaluator  # noqa: E402

IMAGES = 7  # over two ranks, one of them is seen twice


class Scored(Detector):
    """Scores by a metric, an evaluator and a callback at once, and trains with a metric of its own."""

    def __init__(self, checkpoint_all_ranks: bool = True) -> None:
        super().__init__((4,))
        dataset, self.preds = receipts(IMAGES)
        self.evaluator = CLEvalEvaluator(dataset)
        self.metric = CLEvalMetric(e2e=False)
        self.train_metric = CLEvalMetric(e2e=False)
        self.checkpoint_all_ranks = checkpoint_all_ranks
        if not checkpoint_all_ranks:
            self.train_metric.persistent(True)
        self.results: dict[str, Any] = {}

    def training_step(self, batch, batch_idx):
        self.train_metric.update(*extract(self._found(batch), batch))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        names = [f"receipt_{item['index']}.jpg" for item in batch]
        scores = self.evaluator.update(names, [self.preds[name] for name in names])
        assert scores["hmean"].shape == (len(names),)
        outputs = self._found(batch)
        self.metric.update(*extract(outputs, batch))
        return outputs

    def _found(self, batch):
        return Detector.validation_step(self, batch, 0)

    def on_validation_epoch_end(self):
        self.results["metric"] = {name: value.item() for name, value in self.metric.compute().items()}
        self.results["images"] = self.metric.compute_counts()["images"]
        self.results["evaluator"] = self.evaluator.compute()
        self.log_dict(self.results["evaluator"], sync_dist=True, reduce_fx="max")

    # what docs/lightning.md recommends
    def on_save_checkpoint(self, checkpoint):
        if self.checkpoint_all_ranks:
            with self.train_metric.sync_context():  # the rows of all ranks
                checkpoint["train_metric"] = self.train_metric.metric_state

    def on_load_checkpoint(self, checkpoint):
        if self.checkpoint_all_ranks and self.trainer.global_rank == 0:
            self.train_metric.merge_state(checkpoint["train_metric"])

    def on_train_start(self):
        self.results["restored_here"] = len(self.train_metric._joined())
        self.results["restored"] = self.train_metric.compute_counts()["images"]


def run(folder: Path, ranks: int) -> None:
    """What each rank does; under DDP, Lightning starts this file once more for the other rank."""

    def trainer(**options: Any) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            **options,
        )

    def loader(batch_size: int) -> DataLoader:
        return DataLoader(Pages(length=IMAGES), batch_size=batch_size, collate_fn=collate)

    module = Scored()
    run = trainer(callbacks=[CLEvalCallback(extract, prefix="cb", e2e=False)])
    run.validate(module, loader(2), verbose=False)
    results = {
        **module.results,
        "logged": {name: value.item() for name, value in run.callback_metrics.items()},
    }
    for all_ranks in (True, False):
        path = folder / f"mid_{all_ranks}.ckpt"
        saved = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0)
        saved.fit(Scored(all_ranks), loader(1))
        saved.save_checkpoint(path)
        resumed = Scored(all_ranks)
        trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=0).fit(
            resumed, loader(1), ckpt_path=path, **WEIGHTS_ONLY
        )
        results[f"checkpoint_{all_ranks}"] = resumed.results
    (folder / f"ranks_{ranks}_{run.global_rank}.json").write_text(json.dumps(results))


# Lightning from 2.6 on asks whether a checkpoint may hold more than tensors
WEIGHTS_ONLY = {"weights_only": False} if "weights_only" in pl.Trainer.fit.__code__.co_varnames else {}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    root = Path(__file__).parent.parent
    for ranks in (1, 2):
        done = subprocess.run(
            [sys.executable, __file__, str(folder), str(ranks)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
    texts = {path.stem: path.read_text() for path in folder.glob("ranks_*.json")}
    assert sorted(texts) == ["ranks_1_0", "ranks_2_0", "ranks_2_1"]
    return {name: json.loads(text) for name, text in texts.items()}


@pytest.mark.parametrize("rank", [0, 1])
def test_an_image_that_the_sampler_repeats_counts_once(results, rank):
    one, two = results["ranks_1_0"], results[f"ranks_2_{rank}"]
    assert one["images"] == two["images"] == IMAGES
    assert two["metric"] == one["metric"]
    assert two["evaluator"] == one["evaluator"]
    assert two["logged"] == one["logged"]
    assert one["logged"]["cb/det_hmean"] == one["metric"]["det_hmean"]
    dataset, preds = receipts(IMAGES)
    assert one["evaluator"] == fed(CLEvalEvaluator(dataset), preds).compute()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_of_all_ranks_restores_them_all(results, rank):
    restored = results[f"ranks_2_{rank}"]["checkpoint_True"]
    assert restored["restored"] == 4  # two batches of one image on two ranks
    assert restored["restored_here"] == (4, 0)[rank]


@pytest.mark.parametrize("rank", [0, 1])
def test_lightning_alone_gives_rank_0s_state_to_every_rank(results, rank):
    """The reason for the recipe: the two images of rank 0 come back twice, those of rank 1 are lost."""
    restored = results[f"ranks_2_{rank}"]["checkpoint_False"]
    assert restored["restored_here"] == 2
    assert restored["restored"] == 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
