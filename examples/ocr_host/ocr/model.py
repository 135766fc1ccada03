"""A DBNet small enough for a CPU, its loss, and how its maps become polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shapely.geometry import MultiPoint
from torch import Tensor, nn

from ocr.dataset import STRIDE


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DBNet(nn.Module):
    """Differentiable binarization (Liao et al., 2020) on a pyramid of four levels.

    Args:
        channels: Channels of the first level; each further level has as many again.
        k: Steepness of the binarization.
        optimizer: Keyword arguments for Adam.
        postprocess: ``threshold``, ``min_score`` and ``unclip_ratio`` of :meth:`polygons`.
    """

    def __init__(
        self, channels: int, k: float, optimizer: dict[str, Any], postprocess: dict[str, Any]
    ) -> None:
        super().__init__()
        self.k, self.optimizer, self.postprocess = k, dict(optimizer), dict(postprocess)
        widths = [channels * level for level in (1, 2, 3, 4)]
        self.down = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs, 2), *([_conv(outputs, outputs)] if inputs > 3 else []))
            for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        self.side = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.head = nn.Sequential(_conv(channels, channels), nn.Conv2d(channels, 2, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of text and of border, (n, H / STRIDE, W / STRIDE) each, from uint8 images (n, 3, H, W)."""
        levels, x = [], image / 255 - 0.5
        for block, side in zip(self.down, self.side, strict=True):
            x = block(x)
            levels.append(side(x))
        merged = levels[-1]
        for level in reversed(levels[:-1]):
            merged = level + F.interpolate(merged, size=level.shape[-2:], mode="nearest")
        text, border = self.head(merged).unbind(1)
        return text, border

    def loss(self, text: Tensor, border: Tensor, text_map: Tensor, border_map: Tensor) -> Tensor:
        """Balanced cross entropy of the text, L1 of the border, dice of the binarized map."""
        positive = text_map
        text_map, border_map = text_map.to(text.dtype), border_map.to(text.dtype)
        hard = F.binary_cross_entropy_with_logits(text, text_map, reduction="none")
        negatives = min(int(3 * positive.sum()) + 1, int((~positive).sum()))
        balanced = (hard[positive].sum() + hard[~positive].topk(negatives).values.sum()) / (
            positive.sum() + negatives
        )
        probability, threshold = text.sigmoid(), border.sigmoid()
        binary = torch.sigmoid(self.k * (probability - 0.3 - 0.4 * threshold))
        dice = 1 - 2 * (binary * text_map).sum() / (binary.sum() + text_map.sum() + 1e-6)
        return balanced + dice + (threshold - border_map).abs().mean()

    def polygons(self, text: Tensor, raw_size: tuple[int, int]) -> list[np.ndarray]:
        """The words in one map of logits, as quads (4, 2) in pixels of the image as it was."""
        options = self.postprocess
        probability = text.sigmoid()
        labels = _components(probability > options["threshold"])
        height, width = text.shape
        scale = np.array([raw_size[0] / (width * STRIDE), raw_size[1] / (height * STRIDE)]) * STRIDE
        found = []
        for label in labels.unique().tolist():
            inside = labels == label
            if (
                label == 0
                or int(inside.sum()) < 4
                or float(probability[inside].mean()) < options["min_score"]
            ):
                continue
            rows, columns = (axis.numpy() for axis in inside.nonzero(as_tuple=True))
            corners = np.concatenate(
                [np.stack([columns + dx, rows + dy], 1) for dx in (0, 1) for dy in (0, 1)]
            )
            box = MultiPoint(corners).minimum_rotated_rectangle
            distance = box.area * options["unclip_ratio"] / box.length
            quad = box.buffer(distance, join_style="mitre").minimum_rotated_rectangle
            found.append(_reading_order(np.array(quad.exterior.coords[:4]) * scale).astype(np.float32))
        return found


def _components(mask: Tensor) -> Tensor:
    """Labels of the connected parts of a mask, 0 outside: each pixel takes the largest number around it."""
    numbers = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(mask.shape) * mask
    while True:
        grown = F.max_pool2d(numbers[None, None], 3, 1, 1)[0, 0] * mask
        if torch.equal(grown, numbers):
            return grown.long()
        numbers = grown


def _reading_order(quad: np.ndarray) -> np.ndarray:
    """Left-top, right-top, right-bottom, left-bottom."""
    by_height = quad[np.argsort(quad[:, 1])]
    top, bottom = by_height[:2], by_height[2:]
    top, bottom = top[np.argsort(top[:, 0])], bottom[np.argsort(-bottom[:, 0])]
    return np.concatenate([top, bottom])
