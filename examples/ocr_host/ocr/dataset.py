"""Receipts from disk: decoded, augmented, with the maps that a DBNet learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from shapely.geometry import Polygon
from torch.utils.data import Dataset

ROOT = Path(__file__).parents[1]
SHRINK = 0.4
STRIDE = 2


class ReceiptDataset(Dataset[dict[str, Any]]):
    """Images and the shrunk words in them.

    Args:
        root: Folder of the receipts; counted from this project's folder unless absolute.
        split: ``"train"`` or ``"val"``.
        size: Width of what the model sees; it is square for training and 3 : 2 high for validation.
        augment: Crop, turn, recolour and blur at random.
    """

    def __init__(self, root: str, split: str, size: int = 320, augment: bool = False) -> None:
        self.image_path = ROOT / root / split
        annotations = json.loads((ROOT / root / f"{split}.json").read_text())
        self.anns = {
            name: [np.array(word, dtype=np.float32) for word in words] for name, words in annotations.items()
        }
        self.names = list(self.anns)
        self.size, self.augment = size, augment

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        with Image.open(self.image_path / name) as file:
            image = file.convert("RGB")
        raw_size = image.size
        words = self.anns[name]
        image, words = self._crop(image, words) if self.augment else self._whole(image, words)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        sample = {"image": pixels, "name": name, "raw_size": raw_size}
        if self.augment:
            sample |= _maps(words, image.size)
        return sample

    def _whole(self, image: Image.Image, words: list[np.ndarray]) -> tuple[Image.Image, list[np.ndarray]]:
        return image.resize((self.size, self.size * 3 // 2), Image.Resampling.BILINEAR), words

    def _crop(self, image: Image.Image, words: list[np.ndarray]) -> tuple[Image.Image, list[np.ndarray]]:
        """A square of the receipt, at a random place, angle and scale, recoloured."""
        rng = np.random.default_rng(int(torch.randint(2**31, ())))  # torch seeds each worker differently
        turn, scale = np.deg2rad(rng.uniform(-5, 5)), rng.uniform(0.45, 0.6)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        reach = 0.5 * self.size / scale
        middle = np.array([rng.uniform(reach, max(reach, extent - reach)) for extent in image.size])
        back = rotation / scale  # from the crop to the receipt
        origin = middle - 0.5 * self.size * back.sum(axis=1)
        affine = (*back[0], origin[0], *back[1], origin[1])
        image = image.transform(
            (self.size, self.size), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
        )
        for enhance in (
            ImageEnhance.Brightness,
            ImageEnhance.Contrast,
            ImageEnhance.Color,
            ImageEnhance.Sharpness,
        ):
            image = enhance(image).enhance(rng.uniform(0.7, 1.3))
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
        return image, [(word - origin) @ np.linalg.inv(back).T for word in words]


def _maps(words: list[np.ndarray], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The shrunk words (what is text) and the bands around their borders (where text ends), at STRIDE."""
    width, height = size[0] // STRIDE, size[1] // STRIDE
    text, border = Image.new("L", (width, height)), Image.new("L", (width, height))
    draw_text, draw_border = ImageDraw.Draw(text), ImageDraw.Draw(border)
    for word in words:
        polygon = Polygon(word / STRIDE)
        if (
            not polygon.is_valid
            or polygon.area < 4
            or not polygon.intersects(Polygon.from_bounds(0, 0, width, height))
        ):
            continue
        distance = polygon.area * (1 - SHRINK**2) / polygon.length
        inner, outer = (
            polygon.buffer(-distance, join_style="mitre"),
            polygon.buffer(distance, join_style="mitre"),
        )
        draw_border.polygon(list(outer.exterior.coords), fill=255)
        if inner.geom_type == "Polygon" and not inner.is_empty:
            draw_border.polygon(list(inner.exterior.coords), fill=0)
            draw_text.polygon(list(inner.exterior.coords), fill=255)
    return {
        "text_map": torch.from_numpy(np.array(text)) > 127,
        "border_map": torch.from_numpy(np.array(border)) > 127,
    }
