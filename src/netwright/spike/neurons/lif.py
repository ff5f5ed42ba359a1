"""Leaky integrate-and-fire neuron.

    u = a v + b x,    a = 1 - 1/tau,    b = 1/tau (1 without `decay_input`)
    s = H(u - theta);    soft reset: v = u - theta s;    hard: v = u (1 - s);    none: v = u;    v(0) = 0

tau counts time steps; theta and v are in the unit of the current. The forward Euler form of the membrane equation of Gerstner
and Kistler 2002 with one step as the unit of time; tau = inf without `decay_input` is integrate-and-fire.

Without reset the potential is linear in the current, and all steps are computed at once by a linear scan (`scan`), to the
rounding of the sums. `Leaky` is what these equations need of a neuron, whether its leak is fixed (`LIF`) or learnt (`PLIF`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, Reset, fire
from netwright.spike.neurons.scan import linear_scan
from netwright.spike.surrogates import ARCTAN, Surrogate

Gain = float | Tensor
GERSTNER = Paper(
    "gerstner2002spiking", "Spiking Neuron Models: Single Neurons, Populations, Plasticity",
    "Gerstner, Wulfram and Kistler, Werner M.", "Cambridge University Press", 2002, "https://doi.org/10.1017/CBO9780511815706",
)  # fmt: skip


class Leaky(Neuron):
    """The equations above, for a neuron that has `gains`, `theta`, `reset`, `detach_reset` and `surrogate`."""

    theta: float
    reset: Reset
    detach_reset: bool
    surrogate: Surrogate

    @property
    def gains(self) -> tuple[Gain, Gain]:
        """(a, b) of u = a v + b x."""
        raise NotImplementedError

    def start(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.gains
        return fire(a * state + b * x, self.theta, self.surrogate, self.reset, self.detach_reset)

    @property
    def parallel(self) -> bool:
        return self.reset == "none"

    def scan(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if not self.parallel:
            return super().scan(current, state)
        a, b = self.gains
        u = linear_scan(a, b * current, state)
        return self.surrogate(u - self.theta), u[-1]


@dataclass(frozen=True)
class LIF(Leaky):
    """The same leak and threshold for all neurons; `PLIF` learns the leak.

    Attributes:
        tau: time constant of the membrane in steps, at least 1.
        theta: threshold.
        reset: soft, hard or none.
        detach_reset: no gradient through the reset.
        decay_input: the current is divided by tau, so that a constant one is also the potential that it leads to.

    Raises:
        NetwrightError: tau below 1, or theta not positive.
    """

    tau: float = 2.0
    theta: float = 1.0
    reset: Reset = "soft"
    detach_reset: bool = True
    decay_input: bool = True
    surrogate: Surrogate = ARCTAN

    name: ClassVar[str] = "lif"
    paper: ClassVar[Paper] = GERSTNER

    def __post_init__(self) -> None:
        if self.tau < 1 or self.theta <= 0:
            raise NetwrightError(f"{self.name}: tau = {self.tau} must be at least 1 and theta = {self.theta} above 0.")

    @property
    def gains(self) -> tuple[float, float]:
        return 1 - 1 / self.tau, 1 / self.tau if self.decay_input else 1.0
