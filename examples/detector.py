"""Train a tiny text detector on generated pages, for about a minute on a CPU, and keep its best epoch by CLEval.

    python examples/detector.py

Everything that concerns the metric is in three places: `validation_step` returns boxes, `extract` turns them
into what `CLEvalMetric.update` takes, and the Trainer gets the callback and a checkpoint on its score.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cleval_tm.lightning import CLEvalCallback

PAGE = 96  # pixels, each way
STRIDE = 2  # pixels of the page for one of the map that the detector predicts
WORDS = ("total", "tax", "cash", "card", "receipt", "item", "price", "sum", "coffee", "tea", "bread", "milk")


class Pages(Dataset[dict[str, Any]]):
    """Pages with lines of words, drawn on the fly; the same seed draws the same pages."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        page = Image.new("L", (PAGE, PAGE), int(rng.integers(150, 256)))
        draw, font = ImageDraw.Draw(page), ImageFont.load_default()
        boxes, texts = [], []
        for top in range(4, PAGE - 14, 16):
            left = int(rng.integers(2, 20))
            while True:
                text = str(rng.choice(WORDS))
                box = draw.textbbox((left, top + int(rng.integers(0, 4))), text, font=font)
                if box[2] > PAGE - 2:
                    break
                draw.text(box[:2], text, fill=int(rng.integers(0, 130)), font=font, anchor=None)
                boxes.append(draw.textbbox(box[:2], text, font=font))
                texts.append(text)
                left = int(box[2] + rng.integers(5, 20))
        pixels = np.asarray(page, dtype=np.float32) / 255 + rng.normal(0, 0.15, (PAGE, PAGE)).astype(
            np.float32
        )
        return {
            "pixels": torch.from_numpy(pixels)[None],
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "texts": texts,
            "image_id": f"page_{self.seed}_{index}",
        }


def collate(pages: list[dict[str, Any]]) -> dict[str, Any]:
    """Pixels and text maps stacked; the words of each page as they are."""
    maps = torch.zeros(len(pages), PAGE // STRIDE, PAGE // STRIDE)
    for text_map, page in zip(maps, pages, strict=True):
        for left, top, right, bottom in (page["boxes"] / STRIDE).round().int().tolist():
            text_map[top:bottom, left:right] = 1
    return {"pixels": torch.stack([page["pixels"] for page in pages]), "maps": maps, "pages": pages}


class Detector(pl.LightningModule):
    """A few convolutions that tell text from paper; its boxes are those of the connected regions."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 16, 16, 16)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(channels)):
            stride = STRIDE if number == 0 else 1
            layers += [nn.Conv2d(before, after, 5, stride, 2), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)[:, 0]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch["pixels"]), batch["maps"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        return [boxes_of(text_map) for text_map in self(batch["pixels"]) > 0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def boxes_of(text_map: Tensor) -> Tensor:
    """(N, 4) boxes in pixels of the page around the connected regions of a map (H, W) of booleans."""
    numbers = (
        torch.arange(1.0, text_map.numel() + 1, device=text_map.device).reshape(text_map.shape) * text_map
    )
    while True:  # every pixel takes the largest number in its neighbourhood until nothing changes
        spread = F.max_pool2d(numbers[None], 3, 1, 1)[0] * text_map
        if torch.equal(spread, numbers):
            break
        numbers = spread
    boxes = []
    for number in numbers.unique()[1 if not text_map.all() else 0 :]:
        rows, columns = torch.nonzero(numbers == number, as_tuple=True)
        if len(rows) >= 6:
            corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            boxes.append(corners * STRIDE)
    return torch.stack(boxes) if boxes else torch.zeros((0, 4), device=text_map.device)


def extract(
    outputs: list[Tensor], batch: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Predictions and ground truth of a batch, as the metric takes them."""
    preds = [{"boxes": boxes} for boxes in outputs]
    target = [{key: page[key] for key in ("boxes", "texts", "image_id")} for page in batch["pages"]]
    return preds, target


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, and return the scores of the best epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=256, help="pages to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("runs/detector"), help="where checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(options.seed, verbose=False)

    best = ModelCheckpoint(options.folder, monitor="val/det_hmean", mode="max", filename="{epoch}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        callbacks=[CLEvalCallback(extract, e2e=False), best],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    training = DataLoader(Pages(options.pages, options.seed), batch_size=16, shuffle=True, collate_fn=collate)
    validation = DataLoader(Pages(32, options.seed + 1), batch_size=16, collate_fn=collate)
    trainer.fit(Detector(), training, validation)

    [scores] = trainer.validate(Detector(), validation, ckpt_path=best.best_model_path, verbose=False)
    print(f"best epoch: {best.best_model_path}")
    for name in ("det_recall", "det_precision", "det_hmean", "mean_det_hmean"):
        print(f"  {name:16s}{scores[f'val/{name}']:.4f}")
    return scores


if __name__ == "__main__":
    main()
