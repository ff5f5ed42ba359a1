"""Recurrent network of LIF neurons, trained through time with surrogate gradients: what spiking state-space models meet.

    u_t = a u'_{t-1} + sqrt(1 - a^2) (U x_t + W s_{t-1} + b),   a = sigmoid(w), one leak a neuron, learnt
    s_t = H(u_t - 1),   u'_t = u_t - s_t    (soft reset, no gradient through it)
    o_t = c o_{t-1} + (1 - c) V s_t,   c = sigmoid(k), one leak a class, learnt;   logits = o_T + d

Sequences are [N, T, C], or images row by row. Yin et al. 2021 without the adaptation of thresholds; leaks are learnt as there.
The gain sqrt(1 - a^2), in place of their 1 - a, keeps the potential's variance the same for every leak, so that slow neurons
are not silent where training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.spike.models.family import Family, Recurrent, sequences
from netwright.spike.neurons import linear_scan
from netwright.spike.surrogates import ARCTAN, Surrogate


@dataclass(frozen=True)
class LifRnn(Family):
    """`width` neurons, all connected to all.

    Attributes:
        taus: shortest and longest initial time constant in steps, spread evenly in their logarithm over the neurons.
        readout_tau: initial time constant of the classes.
    """

    name: ClassVar[str] = "lif-rnn"
    paper: ClassVar[Paper] = Paper(
        "yin2021accurate",
        "Accurate and efficient time-domain classification with adaptive spiking recurrent neural networks",
        "Yin, Bojian and Corradi, Federico and Bohte, Sander M.", "Nature Machine Intelligence", 2021,
        "https://doi.org/10.1038/s42256-021-00397-w",
    )  # fmt: skip
    width: Any = 32
    taus: tuple[float, float] = (2.0, 2.0)
    readout_tau: float = 4.0
    channels: int = 8
    classes: int = 10
    surrogate: Surrogate = ARCTAN

    def build(self) -> nn.Module:
        return LifRnnNet(self)


def leak(tau: Tensor) -> Tensor:
    """The w with sigmoid(w) = exp(-1/tau)."""
    return torch.logit(torch.exp(-1 / tau))


def spread(taus: tuple[float, float], n: int) -> Tensor:
    """n time constants between two, evenly in their logarithm."""
    return torch.logspace(torch.log10(torch.tensor(taus[0])), torch.log10(torch.tensor(taus[1])), n)


class LeakyReadout(nn.Module):
    """Spikes [T, N, width] to logits [N, classes]: leaky sums of W s, read after the last step."""

    def __init__(self, width: int, classes: int, tau: float):
        super().__init__()
        self.of_spikes = nn.Linear(width, classes, bias=False)
        self.leak = nn.Parameter(leak(torch.full((classes,), tau)))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, spikes: Tensor) -> Tensor:
        c = torch.sigmoid(self.leak)
        return linear_scan(c, (1 - c) * self.of_spikes(spikes))[-1] + self.bias


class LifRnnNet(Recurrent):
    """[N, T, channels] or [N, C, H, W] -> [N, classes]."""

    def __init__(self, c: LifRnn):
        super().__init__()
        self.surrogate = c.surrogate
        self.of_input, self.of_spikes = nn.Linear(c.channels, c.width), nn.Linear(c.width, c.width, bias=False)
        self.leak = nn.Parameter(leak(spread(c.taus, c.width)))
        self.readout = LeakyReadout(c.width, c.classes, c.readout_tau)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes [T, N, width] and the last potentials."""
        given, a = self.of_input(sequences(x)), torch.sigmoid(self.leak)
        gain = torch.sqrt(1 - a * a)
        u = s = torch.zeros_like(given[0])
        sent = []
        for current in given:
            u = a * (u - s.detach()) + gain * (current + self.of_spikes(s))
            s = self.surrogate(u - 1)
            sent.append(s)
        return torch.stack(sent), u

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.spikes(x))
        return logits


VARIANTS = {"rows_lif_rnn": LifRnn(48)}
