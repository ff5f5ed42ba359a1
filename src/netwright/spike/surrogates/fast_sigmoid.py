"""Fast sigmoid surrogate of SuperSpike.

    forward   s = H(x)
    backward  slope(x) = 1 / (1 + beta |x|)^2,    the derivative of x / (1 + beta |x|)

Its height is 1 whatever beta, its area 2/beta. Elementwise; x in the unit of the membrane potential, beta in its inverse.
Zenke and Ganguli 2018; beta = 10 is chosen here for thresholds of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """A slope without exponentials; larger `beta` is narrower."""

    beta: float = 10.0

    name: ClassVar[str] = "fast-sigmoid"
    paper: ClassVar[Paper] = Paper(
        "zenke2018superspike", "SuperSpike: Supervised Learning in Multilayer Spiking Neural Networks",
        "Zenke, Friedemann and Ganguli, Surya", "Neural Computation", 2018, "https://arxiv.org/abs/1705.11146",
    )  # fmt: skip

    def slope(self, x: Tensor) -> Tensor:
        return 1 / (1 + self.beta * x.abs()) ** 2
