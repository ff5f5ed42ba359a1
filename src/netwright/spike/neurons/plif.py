"""Parametric leaky integrate-and-fire neuron: the time constant is learnt.

    1/tau = sigmoid(w);    u = v + (x - v)/tau    (v - v/tau + x without `decay_input`)
    s = H(u - theta);    soft, hard or no reset as in `LIF`;    v(0) = 0

w starts at -ln(tau - 1), so that tau starts where it is set and stays above 1. One w for all neurons of a layer, as in the
paper. Fang et al. 2021.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.lif import Leaky
from netwright.spike.neurons.neuron import Reset
from netwright.spike.surrogates import ARCTAN, ArcTan, Surrogate


class PLIF(nn.Module, Leaky):
    """A layer's neurons with one learnt leak.

    Args:
        tau: initial time constant in steps, above 1.
        theta: threshold.
        reset: soft, hard or none.
        detach_reset: no gradient through the reset.
        decay_input: the current is divided by tau.

    Raises:
        NetwrightError: tau not above 1, or theta not positive.
    """

    name: ClassVar[str] = "plif"
    paper: ClassVar[Paper] = ArcTan.paper

    def __init__(
        self,
        tau: float = 2.0,
        theta: float = 1.0,
        reset: Reset = "soft",
        detach_reset: bool = True,
        decay_input: bool = True,
        surrogate: Surrogate = ARCTAN,
    ):
        super().__init__()
        if tau <= 1 or theta <= 0:
            raise NetwrightError(f"{self.name}: tau = {tau} and theta = {theta} must be above 1 and above 0.")
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))
        self.theta, self.reset, self.detach_reset, self.decay_input = theta, reset, detach_reset, decay_input
        self.surrogate = surrogate

    @property
    def tau(self) -> Tensor:
        return 1 / torch.sigmoid(self.w)

    @property
    def gains(self) -> tuple[Tensor, Tensor | float]:
        rate = torch.sigmoid(self.w)
        return 1 - rate, rate if self.decay_input else 1.0
