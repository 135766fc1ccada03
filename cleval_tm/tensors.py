"""Tensors as arrays on the host. torch itself is not imported: without it nobody can hand in a tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Image = Mapping[str, Any]

_ON_HOST = frozenset((np.ndarray, list, type(None)))


def on_host(images: Sequence[Image]) -> Sequence[Image]:
    """The images with their tensors on the host: those of an accelerator travel in one copy, not one a box.

    Only where some shapes are tensors are the images looked through for all that must travel.
    """
    torch = sys.modules.get("torch")
    kinds = {
        type(shapes[0] if type(shapes) is list and shapes else shapes)
        for image in images
        if type(image) is dict or isinstance(image, Mapping)
        for shapes in (image.get("polygons"), image.get("boxes"))
    }
    if torch is None or kinds <= _ON_HOST:
        return images
    # where the tensors are: image, key, and place in a list of tensors
    places: list[tuple[int, str, int | None, Any]] = []
    for i, image in enumerate(images):
        for key, value in image.items() if isinstance(image, Mapping) else ():
            places += [
                (i, key, at, tensor)
                for at, tensor in _tensors_of(value, torch)
                if tensor.device.type != "cpu"
            ]
    if not places:
        return images
    tensors = [_plain_dtype(tensor.detach(), torch) for _, _, _, tensor in places]
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    data = torch.cat(parts).cpu().numpy()
    copied = [
        {key: list(value) if isinstance(value, list | tuple) else value for key, value in image.items()}
        if isinstance(image, Mapping)
        else image
        for image in images
    ]
    start = 0
    for (i, key, at, _), tensor in zip(places, tensors, strict=True):
        size = tensor.numel() * tensor.element_size()
        dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        array = data[start : start + size].view(dtype).reshape(tuple(tensor.shape))
        if at is None:
            copied[i][key] = array
        else:
            copied[i][key][at] = array
        start += size
    return copied


def _tensors_of(value: Any, torch: Any) -> Iterable[tuple[int | None, Any]]:
    """The tensors in an image's value: itself, or those of a list, with their places."""
    if isinstance(value, torch.Tensor):
        return ((None, value),)
    if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
        return [(at, item) for at, item in enumerate(value) if isinstance(item, torch.Tensor)]
    return ()


def as_array(value: Any) -> npt.NDArray[Any]:
    """An array of a tensor, an array or a nested list, on the host and without gradients."""
    if isinstance(value, np.ndarray):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _plain_dtype(value.detach().cpu(), torch).numpy()  # type: ignore[no-any-return]
    return np.asarray(value)


def _plain_dtype(tensor: Any, torch: Any) -> Any:
    """The tensor in a dtype that numpy knows: bfloat16 becomes float32, which holds its every value."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
