"""Integrate-and-fire neuron with soft reset.

    u = v + x;   s = H(u - theta);   v = u - theta s;   v(0) = theta/2 unless given

Soft reset loses nothing: theta * sum(s) = sum(x) + v(0) - v(T). With v(0) = theta/2 a constant input in [0, theta] is
rounded to the nearest multiple of theta/T. Rueckauer et al. 2017, equations 4 and 5 (reset by subtraction). The surrogate
gives the gradient where the neuron is trained; none passes through the reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, channelwise, fire
from netwright.spike.surrogates import ARCTAN, Surrogate


@dataclass(frozen=True, eq=False)
class IntegrateAndFire(Neuron):
    """`theta` and `v0` are per channel [C], in the unit of the current."""

    name: ClassVar[str] = "if"
    paper: ClassVar[Paper] = Paper(
        "rueckauer2017conversion",
        "Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks for Image Classification",
        "Rueckauer, Bodo and Lungu, Iulia-Alexandra and Hu, Yuhuang and Pfeiffer, Michael and Liu, Shih-Chii",
        "Frontiers in Neuroscience", 2017, "https://doi.org/10.3389/fnins.2017.00682",
    )  # fmt: skip
    theta: Tensor
    v0: Tensor | None = None
    surrogate: Surrogate = ARCTAN

    def start(self, like: Tensor) -> Tensor:
        v0 = self.theta / 2 if self.v0 is None else self.v0
        return channelwise(v0, like).expand_as(like).clone()

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return fire(state + x, channelwise(self.theta, x), self.surrogate, "soft")
