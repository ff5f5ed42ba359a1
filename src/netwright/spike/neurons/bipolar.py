"""Bipolar integrate-and-fire neuron with soft reset: negative values travel as negative spikes.

    u = v + x;   s = [u >= theta] - [u <= -theta];   v = u - theta s;   v(0) = 0 unless given

The negative spike follows Fast-SNN's signed neuron, without its memory of the spikes sent: here the neuron stands at a
linear point, where the running sum may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, channelwise


@dataclass(frozen=True, eq=False)
class Bipolar(Neuron):
    """`theta` and `v0` are per channel [C], in the unit of the current."""

    name: ClassVar[str] = "bipolar"
    paper: ClassVar[Paper] = Paper(
        "hu2023fastsnn", "Fast-SNN: Fast Spiking Neural Network by Converting Quantized ANN",
        "Hu, Yangfan and Zheng, Qian and Jiang, Xudong and Pan, Gang", "IEEE TPAMI", 2023, "https://arxiv.org/abs/2305.19868",
    )  # fmt: skip
    theta: Tensor
    v0: Tensor | None = None

    def start(self, like: Tensor) -> Tensor:
        v0 = torch.zeros_like(self.theta) if self.v0 is None else self.v0
        return channelwise(v0, like).expand_as(like).clone()

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        theta = channelwise(self.theta, x)
        u = state + x
        s = (u >= theta).to(x.dtype) - (u <= -theta).to(x.dtype)
        return s, u - theta * s
