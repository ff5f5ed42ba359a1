"""Sliding parallel spiking neuron: no reset, a learnt filter over the last k steps.

    u_t = sum_{i<k} w_i x_{t-i};    s_t = H(u_t - theta);    x before the first step is 0

w [k] and theta are learnt and shared by a layer, w_i starting at 2^-(i+1). Without reset nothing of step t waits for step
t-1: `scan` is one convolution over time, equal to the steps up to the rounding of the sums. Fang et al. 2023 (PSN), the sliding
form: it needs no fixed T and can stream.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron
from netwright.spike.surrogates import ARCTAN, Surrogate


class SlidingPSN(nn.Module, Neuron):
    """Neurons that look at their last `order` inputs.

    Args:
        order: k, at least 1.
        theta: initial threshold.

    Raises:
        NetwrightError: order below 1.
    """

    name: ClassVar[str] = "sliding-psn"
    paper: ClassVar[Paper] = Paper(
        "fang2023psn", "Parallel Spiking Neurons with High Efficiency and Ability to Learn Long-Term Dependencies",
        "Fang, Wei and Yu, Zhaofei and Zhou, Zhaokun and Chen, Ding and Chen, Yanqi and Ma, Zhengyu and Masquelier, Timothee "
        "and Tian, Yonghong", "NeurIPS", 2023, "https://arxiv.org/abs/2304.12760",
    )  # fmt: skip

    def __init__(self, order: int = 4, theta: float = 1.0, surrogate: Surrogate = ARCTAN):
        super().__init__()
        if order < 1:
            raise NetwrightError(f"{self.name}: order = {order} must be at least 1.")
        self.w = nn.Parameter(2.0 ** -torch.arange(1.0, order + 1))
        self.theta = nn.Parameter(torch.tensor(float(theta)))
        self.surrogate = surrogate

    def start(self, like: Tensor) -> Tensor:
        """The inputs of the last k - 1 steps, the latest first: [k - 1, N, C, ...]."""
        return like.new_zeros((len(self.w) - 1, *like.shape))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([x[None], state])
        return self.surrogate(torch.tensordot(self.w, seen, 1) - self.theta), seen[:-1]

    @property
    def parallel(self) -> bool:
        return True

    def scan(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps, order = len(current), len(self.w)
        seen = torch.cat([state.flip(0), current])
        u = sum(self.w[i] * seen[order - 1 - i : order - 1 - i + steps] for i in range(order))
        return self.surrogate(u - self.theta), seen[steps:].flip(0)
