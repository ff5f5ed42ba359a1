"""Integrate-and-fire neuron with bursts: up to Gamma spikes in one step.

    u = v + x;   s = clip(floor(u / theta), 0, Gamma);   v = u - theta s;   v(0) = theta/2 unless given

Li and Zeng 2022, equations 6 to 8. What an ordinary neuron cannot send because it sends one spike a step goes out at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, channelwise


@dataclass(frozen=True, eq=False)
class Burst(Neuron):
    """`theta` and `v0` are per channel [C], in the unit of the current; `most` is Gamma."""

    name: ClassVar[str] = "burst"
    paper: ClassVar[Paper] = Paper(
        "li2022burst", "Efficient and Accurate Conversion of Spiking Neural Network with Burst Spikes",
        "Li, Yang and Zeng, Yi", "IJCAI", 2022, "https://arxiv.org/abs/2204.13271",
    )  # fmt: skip
    theta: Tensor
    v0: Tensor | None = None
    most: int = 5

    def start(self, like: Tensor) -> Tensor:
        v0 = self.theta / 2 if self.v0 is None else self.v0
        return channelwise(v0, like).expand_as(like).clone()

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        theta, u = channelwise(self.theta, x), state + x
        s = (u / theta).floor().clamp(0, self.most)
        return s, u - theta * s
