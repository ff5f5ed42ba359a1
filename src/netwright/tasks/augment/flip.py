"""Mirror images left to right. Only where left and right mean the same: not for digits, letters or traffic signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from netwright.core.errors import RecipeError
from netwright.core.paper import Paper
from netwright.tasks.augment.role import Augment
from netwright.tasks.augment.shift import Shift


@dataclass(frozen=True)
class Flip(Augment):
    """y[b, c, i, j] = x[b, c, i, W - 1 - j] with the given probability, else x[b]; drawn for each image."""

    name: ClassVar[str] = "flip"
    paper: ClassVar[Paper] = Shift.paper
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise RecipeError(f"flip: the probability must lie in [0, 1], got {self.probability}.")

    def apply(self, x: Tensor, background: Tensor, generator: Generator) -> Tensor:
        mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < self.probability
        return torch.where(mirrored, x.flip(-1), x)
