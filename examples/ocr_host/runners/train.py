"""Trains the detector: ``python runners/train.py``, any setting overridden as Hydra does it."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocr.module import OCRData, OCRModule


@hydra.main(config_path="../configs", config_name="train", version_base="1.2")
def train(config: DictConfig) -> None:
    pl.seed_everything(config.seed, workers=True)
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    data = OCRData(config)
    module = OCRModule(config, data.val_dataset)
    trainer = instantiate(config.trainer, callbacks=list(instantiate(config.callbacks).values()))
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    train()
