"""Turn, scale and move every image a little, between pixels; bilinear, the background outside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from netwright.core.errors import RecipeError
from netwright.core.paper import Paper
from netwright.tasks.augment.role import Augment


@dataclass(frozen=True)
class Affine(Augment):
    """y(p) = x(A p + t): A turns by up to `degrees` and scales by up to `scale`, t moves by up to `move` of the side.

    All three are uniform. The paper applies such affine (and elastic) distortions to handwritten digits.
    """

    name: ClassVar[str] = "affine"
    paper: ClassVar[Paper] = Paper(
        "simard2003best", "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis",
        "Simard, Patrice Y. and Steinkraus, Dave and Platt, John C.", "ICDAR", 2003, "https://doi.org/10.1109/ICDAR.2003.1227801",
    )  # fmt: skip
    degrees: float = 10.0
    scale: float = 0.1
    move: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180 or not 0 <= self.scale < 1 or not 0 <= self.move < 1:
            raise RecipeError(
                f"affine: degrees in [0, 180], scale and move in [0, 1); got {self.degrees}, {self.scale}, {self.move}."
            )

    def apply(self, x: Tensor, background: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = x.shape
        draw = torch.rand(4, b, generator=generator) * 2 - 1
        angle, zoom = draw[0] * math.radians(self.degrees), 1 + draw[1] * self.scale
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        move = 2 * self.move * draw[2:]
        # the grid is in units of half the side of each axis: turning must not shear images that are not square
        matrix = torch.stack([cos, -sin * h / w, move[0], sin * w / h, cos, move[1]], 1).view(b, 2, 3)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        level = background.to(x).view(1, -1, 1, 1)
        return F.grid_sample(x - level, grid, align_corners=False) + level
