"""Leaky integrate-and-fire neuron whose leak and threshold are both learnt.

    u = l v + x;    s = H(u/theta - 1);    v = u - theta s;    v(0) = 0

l and theta are one number a layer; the slope of the surrogate is taken in thresholds, so that d s/d theta = -slope u/theta^2.
No gradient passes through s in the reset, but one through theta. Rathi and Roy 2021 (DIET-SNN); IIR-SNN (S247) is made of it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron
from netwright.spike.surrogates import Damped, Surrogate

DAMPED = Damped()
LEAST = 1e-3  # that a learnt threshold falls to


class DietLIF(nn.Module, Neuron):
    """A layer's neurons with one learnt leak and one learnt threshold.

    Args:
        leak: initial share of the potential that a step keeps; 1 is integrate-and-fire.
        theta: initial threshold, in the unit of the current.

    Raises:
        NetwrightError: theta not positive.
    """

    name: ClassVar[str] = "diet"
    paper: ClassVar[Paper] = Paper(
        "rathi2021diet",
        "DIET-SNN: A Low-Latency Spiking Neural Network with Direct Input Encoding and Leakage and Threshold Optimization",
        "Rathi, Nitin and Roy, Kaushik", "IEEE TNNLS", 2021, "https://arxiv.org/abs/2008.03658",
    )  # fmt: skip

    def __init__(self, leak: float = 1.0, theta: float = 1.0, surrogate: Surrogate = DAMPED):
        super().__init__()
        if theta <= 0:
            raise NetwrightError(f"{self.name}: theta = {theta} must be above 0.")
        self.leak = nn.Parameter(torch.tensor(float(leak)))
        self.theta = nn.Parameter(torch.tensor(float(theta)))
        self.surrogate = surrogate

    def start(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.theta.clamp(min=LEAST)
        u = self.leak * state + x
        s = self.surrogate(u / theta - 1)
        return s, u - theta * s.detach()
