"""Damped triangle surrogate, as IIR-SNN uses it.

    forward   s = H(x)
    backward  slope(x) = gamma max(0, 1 - |x|),    x = u/theta - 1

The damping keeps gradients through many time steps from growing. Elementwise; x has no unit: the potential above the
threshold, in thresholds. Bellec et al. 2018; gamma = 0.3 in theirs and in IIR-SNN (S247).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class Damped(Surrogate):
    """A triangle of height `gamma` below 1."""

    gamma: float = 0.3

    name: ClassVar[str] = "damped"
    paper: ClassVar[Paper] = Paper(
        "bellec2018lsnn", "Long Short-Term Memory and Learning-to-Learn in Networks of Spiking Neurons",
        "Bellec, Guillaume and Salaj, Darjan and Subramoney, Anand and Legenstein, Robert and Maass, Wolfgang", "NeurIPS", 2018,
        "https://arxiv.org/abs/1803.09574",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return self.gamma * torch.relu(1 - x.abs())
