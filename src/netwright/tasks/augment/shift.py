"""Move every image by a whole number of pixels; what is uncovered is filled with the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from netwright.core.errors import RecipeError
from netwright.core.paper import Paper
from netwright.tasks.augment.role import Augment


@dataclass(frozen=True)
class Shift(Augment):
    """y[b, c, i, j] = x[b, c, i + u_b, j + v_b], with u_b, v_b uniform on the whole numbers -k..k; background outside.

    `pixels` is k; 0 stands for max(1, shorter side // 8): 1 for 8x8, 3 for 28x28, 4 for 32x32 images.
    The paper crops 224x224 patches at random positions, the same motion without a background.
    """

    name: ClassVar[str] = "shift"
    paper: ClassVar[Paper] = Paper(
        "krizhevsky2012imagenet", "ImageNet Classification with Deep Convolutional Neural Networks",
        "Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.", "NeurIPS", 2012,
        "https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks",
    )  # fmt: skip
    pixels: int = 0

    def __post_init__(self) -> None:
        if self.pixels < 0 or self.pixels != int(self.pixels):
            raise RecipeError(f"shift: pixels must be a whole number from 0 on, got {self.pixels}.")

    def apply(self, x: Tensor, background: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = x.shape
        k = int(self.pixels) or max(1, min(h, w) // 8)
        padded = background.to(x).view(1, c, 1, 1).expand(b, c, h + 2 * k, w + 2 * k).clone()
        padded[:, :, k : k + h, k : k + w] = x
        moves = torch.randint(2 * k + 1, (2, b, 1), generator=generator)
        rows, columns = moves[0] + torch.arange(h), moves[1] + torch.arange(w)
        batch, channel = torch.arange(b).view(b, 1, 1, 1), torch.arange(c).view(1, c, 1, 1)
        return padded[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]
