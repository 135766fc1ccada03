"""Training and validation, in Lightning's terms."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from ocr.dataset import ROOT
from ocr.receipts import make_receipts


class OCRModule(pl.LightningModule):
    """A detector, scored by CLEval batch by batch."""

    def __init__(self, config: DictConfig, val_dataset: Any) -> None:
        super().__init__()
        self.model = instantiate(config.models)
        self.evaluator = instantiate(config.metrics)(val_dataset)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        text, border = self.model(batch["image"])
        loss: torch.Tensor = self.model.loss(text, border, batch["text_map"], batch["border_map"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        text, _ = self.model(batch["image"])
        sizes = torch.stack(batch["raw_size"], 1).tolist()
        predictions = [
            {"boxes": self.model.polygons(one.float().cpu(), size), "raw_size": size}
            for one, size in zip(text, sizes, strict=True)
        ]
        self.evaluator.update(batch["name"], predictions)

    def on_validation_epoch_end(self) -> None:
        scores = self.evaluator.compute()
        self.log_dict(scores)
        self.evaluator.reset()
        print(
            f"step {self.global_step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), **self.model.optimizer)


class OCRData(pl.LightningDataModule):
    """Datasets and loaders as the configuration has them."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config = config
        receipts = config.data.receipts
        make_receipts(ROOT / receipts.root, {"train": receipts.train_images, "val": receipts.val_images})
        self.train_dataset = instantiate(config.data.train_dataset)
        self.val_dataset = instantiate(config.data.val_dataset)

    def train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = instantiate(
            self.config.dataloaders.train_dataloader, dataset=self.train_dataset
        )
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = instantiate(
            self.config.dataloaders.val_dataloader, dataset=self.val_dataset
        )
        return loader
