"""Short-term plasticity: a synapse facilitates and tires with the spikes that it passes (Tsodyks and Markram).

    u- = f u;                  u = u- + U (1 - u-) s       utilisation jumps at a spike, falls between spikes
    x- = 1 - d (1 - x);        r = u x- s                  of the resources x-, the share u is released
    x  = x- - r                                            and recovers between spikes
    f = exp(-1/tau_f),  d = exp(-1/tau_d),    u(0) = 0,  x(0) = 1

s are spikes (0, 1) [N, C, ...], r what they are worth, in [0, 1]; times in steps. Tsodyks, Pawelzik and Markram 1998,
exact between the spikes. Given the spikes, both recurrences are linear with coefficients that change in time, so
`scan` does all steps at once. One of the priors of S224.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.delayed import Delayed
from netwright.spike.neurons.scan import linear_scan
from netwright.spike.synapses.synapse import Synapse


class Resources(NamedTuple):
    """Utilisation and resources after the last step, both [N, C, ...]."""

    u: Tensor
    x: Tensor


@dataclass(frozen=True)
class ShortTermPlasticity(Synapse):
    """Depressing as set (cortical pyramidal cells); U = 0.15, tau_f = 750, tau_d = 50 facilitates.

    Attributes:
        U: share of the resources that the first spike releases.
        tau_f: time constant of facilitation in steps.
        tau_d: time constant of recovery in steps.

    Raises:
        NetwrightError: U outside (0, 1], or a time that is not positive.
    """

    U: float = 0.45
    tau_f: float = 50.0
    tau_d: float = 750.0

    name: ClassVar[str] = "stp"
    paper: ClassVar[Paper] = Paper(
        "tsodyks1998dynamic", "Neural Networks with Dynamic Synapses",
        "Tsodyks, Misha and Pawelzik, Klaus and Markram, Henry", "Neural Computation", 1998,
        "https://doi.org/10.1162/089976698300017502",
    )  # fmt: skip
    also: ClassVar[tuple[Paper, ...]] = (Delayed.paper,)

    def __post_init__(self) -> None:
        if not 0 < self.U <= 1 or self.tau_f <= 0 or self.tau_d <= 0:
            raise NetwrightError(
                f"{self.name}: U = {self.U} must lie in (0, 1], tau_f = {self.tau_f} and tau_d = {self.tau_d} above 0."
            )

    @property
    def decays(self) -> tuple[float, float]:
        """(f, d) of the equations above."""
        return math.exp(-1 / self.tau_f), math.exp(-1 / self.tau_d)

    def start(self, like: Tensor) -> Resources:
        return Resources(torch.zeros_like(like), torch.ones_like(like))

    def step(self, s: Tensor, state: Resources) -> tuple[Tensor, Resources]:
        f, d = self.decays
        u, x = f * state.u, 1 - d * (1 - state.x)
        u = u + self.U * (1 - u) * s
        r = u * x * s
        return r, Resources(u, x - r)

    def scan(self, spikes: Tensor, state: Resources | None = None) -> tuple[Tensor, Resources]:
        """Releases [T, N, C, ...] of spikes [T, N, C, ...], all steps at once, and the state after them."""
        f, d = self.decays
        state = self.start(spikes[0]) if state is None else state
        u = linear_scan(f * (1 - self.U * spikes), self.U * spikes, state.u)
        kept = 1 - u * spikes
        x = linear_scan(d * kept, (1 - d) * kept, state.x)
        before = torch.cat([state.x[None], x[:-1]])
        return u * spikes * (1 - d * (1 - before)), Resources(u[-1], x[-1])
