"""Generated documents and what a plausible detector would find in them: data for a machine that has none.

The same seed gives the same documents on any machine: only ``random.Random.random`` is drawn from, and
coordinates are whole pixels.
"""

from __future__ import annotations

import io
import math
import random
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

PAGE = (1754, 1240)
"""Height and width of a document in pixels."""

_SPOKEN = {
    "Latin": "Invoice Total Amount VAT Customer Street Date Payment Thank you Article No. Price "
    "EUR 3,50 12.99 Café Größe señor façade 2024-03-18 #4471 (paid) e-mail: Qty 1x "
    "subtotal",
    "Cyrillic": "Счёт Итого Дата Адрес Улица Цена руб. Спасибо за покупку! №1024 Товар скидка 15% касса",
    "Greek": "Τιμολόγιο Σύνολο Ημερομηνία Οδός Τιμή Ευχαριστούμε ποσό ΦΠΑ 24% πελάτης",
    "Hangul": "영수증 합계 금액 부가세 고객 주소 날짜 결제 감사합니다 사과 1,500원 카드승인 대표자 "
    "서울특별시 강남구",
    "Han": "收据 总计 金额 日期 地址 电话 谢谢光临 商品 数量 单价 税额 北京市 会员卡 现金",
    "Kana": "レシート 合計 お釣り ありがとうございます 店舗 りんご ￥1,280 ポイント クレジット 領収書",
    "Thai": "ใบเสร็จ รวม วันที่ ราคา บาท ขอบคุณ ที่อยู่ จำนวน ภาษี สินค้า",
    "Devanagari": "रसीद कुल दिनांक मूल्य धन्यवाद ग्राहक पता संख्या कर रुपये",
    "Arabic": "فاتورة المجموع التاريخ السعر شكرا العميل العنوان الكمية",
}
_WORDS = {script: words.split() for script, words in _SPOKEN.items()}
_WIDE = ("Hangul", "Han", "Kana")
_CONFUSED = "oO0l1I|iB8S5rnmcegq9,.'-口日曰未末人入ーェ에애오우"

Corners = list[tuple[float, float]]
Image = dict[str, Any]


@dataclass
class _Word:
    """A word on the page before it is tilted: left, top, width, height in pixels."""

    left: float
    top: float
    width: float
    height: float
    text: str
    ignored: bool = False

    def part(self, start: float, end: float) -> Corners:
        """Corners of the part of the word from ``start`` to ``end``, both shares of its width."""
        left, right = self.left + start * self.width, self.left + end * self.width
        return [
            (left, self.top),
            (right, self.top),
            (right, self.top + self.height),
            (left, self.top + self.height),
        ]


def make_documents(images: int = 100, seed: int = 0) -> tuple[list[Image], list[Image]]:
    """Generated documents, and a detector's output for them.

    The detector misses words, splits and merges them, finds things that are none, reads some letters wrong,
    and also finds part of what the ground truth ignores.

    Args:
        images: how many documents, each of about 100 words in one of nine scripts.
        seed: another seed gives other documents.

    Returns:
        ``(preds, target)`` as :func:`cleval_tm.evaluate` takes them: ``"polygons"`` (N, 4, 2) float64 in
        whole pixels, ``"texts"``, ``"image_id"``; in ``preds`` also ``"scores"``, in ``target`` ``"ignore"``
        and ``"image_size"`` (height, width).

    Example:
        >>> from cleval_tm import evaluate
        >>> preds, target = make_documents(3)
        >>> target[0]["image_id"], preds[0]["polygons"].shape[1:]
        ('doc_001', (4, 2))
        >>> 0.5 < evaluate(preds, target).scores()["e2e_hmean"] < 1
        True
    """
    draw = random.Random(seed).random
    preds, target = [], []
    for number in range(1, images + 1):
        script = list(_WORDS)[(number - 1) % len(_WORDS)]
        tilt = _Tilt((draw() - 0.5) * math.radians(8))
        lines = _lines(draw, script)
        words = [word for line in lines for word in line]
        name = f"doc_{number:03d}"
        found = sorted(_detections(draw, lines), key=lambda detection: -detection[2])
        target.append(
            {
                "image_id": name,
                "image_size": PAGE,
                "polygons": tilt([word.part(0, 1) for word in words]),
                "texts": ["###" if word.ignored else word.text for word in words],
                "ignore": np.array([word.ignored for word in words], bool),
            }
        )
        preds.append(
            {
                "image_id": name,
                "polygons": tilt([corners for corners, _, _ in found]),
                "texts": [text for _, text, _ in found],
                "scores": np.array([score for _, _, score in found], np.float64),
            }
        )
    return preds, target


def as_zip(images: list[Image], prefix: str) -> bytes:
    """The images' quads and texts as a ZIP of text files, one an image, ``x1,y1,...,x4,y4,text`` a line."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in images:
            rows = zip(image["polygons"].reshape(-1, 8).astype(int).tolist(), image["texts"], strict=True)
            lines = "".join(f"{','.join(map(str, numbers))},{text}\n" for numbers, text in rows)
            entry = zipfile.ZipInfo(f"{prefix}{image['image_id']}.txt")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, lines)
    return packed.getvalue()


class _Tilt:
    """Turns a page about its middle, and rounds to whole pixels."""

    def __init__(self, angle: float) -> None:
        self._cos, self._sin = math.cos(angle), math.sin(angle)

    def __call__(self, quads: list[Corners]) -> Any:
        middle = np.array([PAGE[1] / 2, PAGE[0] / 2])
        points = np.array(quads, np.float64).reshape(-1, 4, 2) - middle
        turned = points @ np.array([[self._cos, self._sin], [-self._sin, self._cos]])
        return np.rint(turned + middle)


def _lines(draw: Any, script: str) -> list[list[_Word]]:
    """Lines of words down the page, in letters of several sizes."""
    lines: list[list[_Word]] = []
    top = 120.0
    while top < PAGE[0] - 160 and len(lines) < 16:
        size = _pick(draw, (22, 26, 26, 30, 44))
        left, line = 90.0 + 60 * draw(), []
        while left < PAGE[1] - 220 and draw() > 0.06:
            # numbers and Latin words are found on any receipt
            text = _pick(draw, _WORDS[script if draw() < 0.75 else "Latin"])
            wide = script in _WIDE and not text.isascii()
            width = len(text) * size * (0.95 if wide else 0.55)
            if left + width > PAGE[1] - 80:
                break
            line.append(_Word(left, top, width, size * 1.15, text, draw() < 0.02))
            left += width + size * (0.25 + 0.3 * draw())
        lines.append(line)
        top += size * (1.5 + 0.8 * draw())
    return lines


def _detections(draw: Any, lines: list[list[_Word]]) -> list[tuple[Corners, str, float]]:
    """What the detector finds: (corners, text, score) each."""
    found = []
    for line in lines:
        position = 0
        while position < len(line):
            word, chance = line[position], draw()
            after = line[position + 1] if position + 1 < len(line) else None
            position += 1
            if chance < 0.025 or (word.ignored and chance < 0.5):
                continue
            if chance < 0.06 and after is not None:
                found.append((_hull(word, after), word.text + after.text, 0.7))
                position += 1
            elif chance > 0.96 and len(word.text) > 3:
                cut = 1 + int(draw() * (len(word.text) - 1))
                share = cut / len(word.text)
                found.append((word.part(0, share - 0.02), word.text[:cut], 0.8))
                found.append((word.part(share + 0.02, 1), word.text[cut:], 0.8))
            else:
                found.append((word.part(0, 1), word.text, 0.95))
            if chance > 0.995:
                found.append((word.part(0, 1), word.text, 0.6))
    found += [(_speck(draw), _pick(draw, _CONFUSED) * 2, 0.3) for _ in range(int(draw() * 4))]
    return [
        (_jitter(draw, corners), _misread(draw, text), round(score - 0.1 * draw(), 3))
        for corners, text, score in found
    ]


def _hull(first: _Word, second: _Word) -> Corners:
    width = second.left + second.width - first.left
    return _Word(first.left, first.top, width, first.height, "").part(0, 1)


def _speck(draw: Any) -> Corners:
    """A false positive in the margin."""
    return _Word(20 + 40 * draw(), 60 + (PAGE[0] - 160) * draw(), 20 + 30 * draw(), 18, "").part(0, 1)


def _jitter(draw: Any, corners: Corners) -> Corners:
    reach = 0.12 * (corners[3][1] - corners[0][1])
    return [(x + reach * (draw() - 0.5), y + reach * (draw() - 0.5)) for x, y in corners]


def _misread(draw: Any, text: str) -> str:
    letters = []
    for letter in text:
        chance = draw()
        if chance < 0.02:
            letters.append(_pick(draw, _CONFUSED))
        elif chance > 0.005 + 0.02:
            letters.append(letter)
    return "".join(letters)


def _pick(draw: Any, options: Any) -> Any:
    return options[int(draw() * len(options))]
