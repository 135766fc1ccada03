"""Receipts drawn with Pillow, as photographs (JPEG) with the polygon of every word."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 640, 960
_GOODS = ["coffee", "milk", "bread", "apples", "rice", "noodles", "kimchi", "eggs", "butter", "tea"]
_GOODS += ["water", "soap", "cheese", "ramen", "tofu", "salt"]
_SHOPS = ["CORNER MARKET", "GREEN GROCER", "SEOUL MART", "STATION CAFE", "NIGHT KITCHEN", "BOOKS & TEA"]
_PLACES = ["12 Harbour Road", "7 Hill Street", "Gangnam-daero 396", "Block C Floor 2", "88 River Walk"]

Words = list[tuple[str, tuple[int, int]]]


def make_receipts(root: Path, images: dict[str, int], seed: int = 7) -> None:
    """Draws what is missing: ``{root}/{split}/*.jpg`` and ``{root}/{split}.json``, file names to word polygons.

    Args:
        root: Folder of the data set.
        images: Number of images by split.
        seed: The same seed draws the same receipts.
    """
    for split, count in images.items():
        annotations = root / f"{split}.json"
        if annotations.is_file() and len(json.loads(annotations.read_text())) == count:
            continue
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        words = {}
        for number in range(count):
            name = f"receipt_{number:04d}.jpg"
            image, words[name] = draw_receipt(random.Random(f"{seed} {split} {number}"))
            image.save(folder / name, quality=88)
        partial = annotations.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(words))
        partial.replace(annotations)  # last, so that a split is there as a whole or not at all


def draw_receipt(rng: random.Random) -> tuple[Image.Image, list[list[list[float]]]]:
    """One receipt as photographed, and the four corners of each word in it."""
    paper = Image.new("RGB", (WIDTH, HEIGHT), (rng.randint(225, 250),) * 3)
    draw = ImageDraw.Draw(paper)
    boxes: list[tuple[float, float, float, float]] = []
    for size, y, words in _lines(rng):
        font = ImageFont.load_default(size=size)
        for text, (x, anchor) in words:
            place = (x, y)
            draw.text(
                place, text, fill=(rng.randint(20, 70),) * 3, font=font, anchor="ra" if anchor else "la"
            )
            boxes.append(draw.textbbox(place, text, font=font, anchor="ra" if anchor else "la"))
    return _photographed(paper, boxes, rng)


def _lines(rng: random.Random) -> list[tuple[int, int, Words]]:
    """Size of the font, height on the paper and words of each line."""
    lines: list[tuple[int, int, Words]] = [(34, 50, _spread(rng.choice(_SHOPS), 150, 30))]
    lines.append((22, 105, _spread(rng.choice(_PLACES), 170, 18)))
    lines.append(
        (22, 140, [(f"2024-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}", (90, 0)), ("12:40", (550, 1))])
    )
    y, total = 200, 0
    for _ in range(rng.randint(9, 14)):
        price = rng.randint(10, 399) * 50
        total += price
        goods = " ".join(rng.sample(_GOODS, rng.randint(1, 2)))
        lines.append((26, y, [*_spread(goods, 80, 22), (f"{price:,}", (560, 1))]))
        y += rng.randint(38, 46)
    lines.append((30, y + 30, [("TOTAL", (80, 0)), (f"{total:,}", (560, 1))]))
    lines.append((22, y + 90, _spread("thank you come again", 180, 18)))
    return lines


def _spread(text: str, x: int, advance: int) -> Words:
    """The words of a text side by side, each with its place."""
    placed = []
    for word in text.split():
        placed.append((word, (x, 0)))
        x += advance * len(word) * 3 // 4 + advance
    return placed


def _photographed(
    paper: Image.Image, boxes: list[tuple[float, float, float, float]], rng: random.Random
) -> tuple[Image.Image, list[list[list[float]]]]:
    """Turned a little, unevenly lit, grainy, slightly out of focus."""
    angle = rng.uniform(-4, 4)
    table = (rng.randint(60, 140), rng.randint(50, 110), rng.randint(40, 90))
    image = paper.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=table)
    pixels = np.asarray(image, dtype=np.float32)
    light = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.1), HEIGHT, dtype=np.float32)[:, None, None]
    grain = np.random.default_rng(rng.randrange(2**32)).normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(pixels * light + grain, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    corners = [np.array([(l, t), (r, t), (r, b), (l, b)]) for l, t, r, b in boxes]  # noqa: E741
    return image, [((quad - middle) @ rotation + middle).round(2).tolist() for quad in corners]
