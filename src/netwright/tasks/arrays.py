"""Image arrays as found in files -> tensors [N,C,H,W], uint8 where the values allow it, else float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from netwright.core.errors import DataError
from netwright.tasks.source import Part, Source, check_bytes, check_side


def _channel_axis(x: NDArray[Any], where: str) -> int | None:
    """Which axis holds the channels: None for [N,H,W], 1 for [N,C,H,W], 3 for [N,H,W,C] (the shorter of the two)."""
    if x.ndim == 3:
        return None
    if x.ndim != 4:
        raise DataError(f"{where} has shape {x.shape}; images must be [N,H,W], [N,H,W,C] or [N,C,H,W]. Reshape the array.")
    if x.shape[1] == x.shape[3]:
        raise DataError(
            f"{where} has shape {x.shape}: it cannot be told whether axis 1 or axis 3 holds the channels. "
            "Store the images with fewer channels than pixels a side."
        )
    return 1 if x.shape[1] < x.shape[3] else 3


def _check_finite(x: NDArray[Any], where: str) -> None:
    bad = ~np.isfinite(x)
    if bad.any():
        first = int(bad.reshape(len(x), -1).any(axis=1).argmax())
        raise DataError(
            f"{where}: {int(bad.sum())} value(s) are NaN, infinite or beyond float32, the first in example {first}. "
            "Remove these examples or replace the values."
        )


def image_tensors(arrays: Mapping[str, NDArray[Any]], where: Mapping[str, str]) -> dict[str, Tensor]:
    """Arrays by split, one layout and one dtype for all of them -> tensors [N,C,H,W], uint8 or float32.

    Whole numbers within 0..255 (bool included) are kept as uint8; everything else becomes float32.

    Raises:
        DataError: wrong rank, dtype, shape or size, empty arrays, NaN or infinite values.
    """
    for split, x in arrays.items():
        if x.dtype.kind not in "buif":
            raise DataError(f"{where[split]} has dtype {x.dtype}; images must be uint8 or floating-point numbers.")
        if x.size == 0:
            raise DataError(f"{where[split]}: empty, its shape is {x.shape}; at least one example is needed.")
    axis = _channel_axis(arrays["train"], where["train"])
    for split, x in arrays.items():
        if x.ndim != arrays["train"].ndim or x.shape[1:] != arrays["train"].shape[1:]:
            raise DataError(
                f"{where[split]} has shape {x.shape}, {where['train']} {arrays['train'].shape}: "
                "all but the first number must agree. Bring the images to one size."
            )
    small = all(x.dtype == np.uint8 or (x.dtype.kind in "bui" and x.min() >= 0 and x.max() <= 255) for x in arrays.values())
    tensors = {}
    for split, x in arrays.items():
        x = x[:, None] if axis is None else np.moveaxis(x, axis, 1)
        check_side(x.shape[2], x.shape[3], where[split])
        check_bytes(len(x), x.shape[1:], 1 if small else 4, where[split])
        with np.errstate(over="ignore"):  # a double beyond float32 becomes inf and is reported below
            x = np.ascontiguousarray(x, dtype=np.uint8 if small else np.float32)
        if not small:
            _check_finite(x, where[split])
        tensors[split] = torch.from_numpy(x if x.flags.writeable else x.copy())
    return tensors


def resized(x: Tensor, size: int | None) -> Tensor:
    """[N,C,H,W] -> [N,C,size,size], bilinear with anti-aliasing, same dtype; unchanged when `size` is None."""
    if size is None or tuple(x.shape[2:]) == (size, size):
        return x
    chunks = []
    for chunk in x.split(1024):
        y = F.interpolate(chunk.to(torch.float32), (size, size), mode="bilinear", antialias=True, align_corners=False)
        chunks.append(y.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else y)
    return torch.cat(chunks)


def array_source(
    name: str,
    kind: str,
    tensors: dict[str, Tensor],
    labels: dict[str, NDArray[np.int64]],
    classes: tuple[str, ...],
    where: dict[str, str],
    size: int | None,
) -> Source:
    """A Source of arrays, one per split; examples are numbered in the order train, validation, test.

    uint8 pixels are divided by 255; floating-point values are taken in the units they come in.
    """
    parts, start = {}, 0
    for split in ("train", "validation", "test"):
        if split in tensors:
            n = len(tensors[split])
            ids = torch.arange(start, start + n)
            parts[split] = Part(where[split], resized(tensors[split], size), torch.from_numpy(labels[split]), ids)
            start += n
    scale = 1 / 255 if parts["train"].x.dtype == torch.uint8 else 1.0
    augment = ("shift", "flip") if parts["train"].x.shape[1] == 3 else ("shift",)
    return Source(name, kind, classes, scale, parts["train"], parts["test"], parts.get("validation"), augment)
