"""Blank a square of every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from netwright.core.errors import RecipeError
from netwright.core.paper import Paper
from netwright.tasks.augment.role import Augment


@dataclass(frozen=True)
class Cutout(Augment):
    """y = x outside, 0 (the mean of the normalised data) inside a square of s x s pixels.

    Its centre is uniform over the pixels, so that parts of the square may lie outside the image (paper, section 3.2).
    `side` is s; 0 stands for half the shorter side, the paper's choice for CIFAR-10 (16 of 32).
    """

    name: ClassVar[str] = "cutout"
    paper: ClassVar[Paper] = Paper(
        "devries2017cutout", "Improved Regularization of Convolutional Neural Networks with Cutout",
        "DeVries, Terrance and Taylor, Graham W.", "arXiv", 2017, "https://arxiv.org/abs/1708.04552",
    )  # fmt: skip
    side: int = 0

    def __post_init__(self) -> None:
        if self.side < 0 or self.side != int(self.side):
            raise RecipeError(f"cutout: the side must be a whole number of pixels from 0 on, got {self.side}.")

    def apply(self, x: Tensor, background: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = x.shape
        s = int(self.side) or max(1, min(h, w) // 2)

        def inside(length: int) -> Tensor:
            start = torch.randint(length, (b, 1), generator=generator) - s // 2
            at = torch.arange(length)
            return (at >= start) & (at < start + s)

        square = inside(h)[:, None, :, None] & inside(w)[:, None, None, :]
        return x.masked_fill(square, 0.0)
