"""Adaptive leaky integrate-and-fire neuron: every spike raises the threshold for a while.

    u = a v + b x,                 a, b as in `LIF`
    s = H(u - theta - beta A)
    v = u - (theta + beta A) s     soft; hard and none as in `LIF`
    A = rho A + (1 - rho) s,       rho = exp(-1/tau_adaptation),    v(0) = A(0) = 0

A is a running mean of the spikes, so that a neuron that always fires has the threshold theta + beta. Bellec et al. 2018
(LSNN); S224 has it among its priors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, Reset, fire
from netwright.spike.surrogates import Damped, Surrogate

DAMPED = Damped()


class Adapting(NamedTuple):
    """Potentials and running means of the spikes, both [N, C, ...]."""

    v: Tensor
    a: Tensor


@dataclass(frozen=True)
class AdaptiveLIF(Neuron[Adapting]):
    """Spike-frequency adaptation, which remembers over `tau_adaptation` steps.

    Attributes:
        tau: time constant of the membrane in steps, at least 1.
        theta: threshold of a neuron that has been silent.
        beta: how much a neuron that always fires has more, in the unit of theta.
        tau_adaptation: time constant of the adaptation in steps.
        detach_reset: no gradient through the reset; one through the adaptation always.

    Raises:
        NetwrightError: a value outside its range.
    """

    tau: float = 20.0
    theta: float = 1.0
    beta: float = 1.8
    tau_adaptation: float = 200.0
    reset: Reset = "soft"
    detach_reset: bool = True
    decay_input: bool = True
    surrogate: Surrogate = DAMPED

    name: ClassVar[str] = "alif"
    paper: ClassVar[Paper] = Damped.paper

    def __post_init__(self) -> None:
        if self.tau < 1 or self.theta <= 0 or self.beta < 0 or self.tau_adaptation <= 0:
            raise NetwrightError(
                f"{self.name}: tau = {self.tau} must be at least 1, theta = {self.theta} and tau_adaptation = "
                f"{self.tau_adaptation} above 0, and beta = {self.beta} not below 0."
            )

    def start(self, like: Tensor) -> Adapting:
        return Adapting(torch.zeros_like(like), torch.zeros_like(like))

    def step(self, x: Tensor, state: Adapting) -> tuple[Tensor, Adapting]:
        rho = math.exp(-1 / self.tau_adaptation)
        u = (1 - 1 / self.tau) * state.v + (x / self.tau if self.decay_input else x)
        s, v = fire(u, self.theta + self.beta * state.a, self.surrogate, self.reset, self.detach_reset)
        return s, Adapting(v, rho * state.a + (1 - rho) * s)
