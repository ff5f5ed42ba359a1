"""Liquid state machine: a fixed random spiking reservoir; only a projection of what it does is trained.

    i_t = W_in x_t + W s_{t-1};    s_t = neuron(i_t)             R neurons, x spikes [T, N, I]
    z = sum_t s_t                                                 the liquid's state: spike counts [N, R]
    W = g (G+ - G-),    G log-normal where a cell has formed, else 0

The weights are the noise of a resistive memory: the differences of pairs of log-normal conductances, most cells never
formed. Nothing in the liquid is trained, so its states are computed once, and a linear layer or a small network learns on
them. Lin et al. 2025 (S234), who have the cells in hardware; Maass, Natschlaeger and Markram 2002 is the liquid.

Zero-shot, contrastive: two liquids for two kinds of events, each with a projection; `contrastive` draws the projections of the
same thing together and those of different things apart, and a new class is recognised by the nearest projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.lif import LIF
from netwright.spike.neurons.neuron import Neuron

paper = Paper(
    "lin2025resistive", "Resistive Memory-Based Zero-Shot Liquid State Machine for Multimodal Event Data Learning",
    "Lin, Ning and Wang, Shaocong and Li, Yi and Wang, Bo and Shi, Shuhui and others", "Nature Computational Science", 2025,
    "https://arxiv.org/abs/2307.00771", "S234",
)  # fmt: skip


def resistive(shape: tuple[int, int], generator: torch.Generator, formed: float = 0.2, spread: float = 0.5) -> Tensor:
    """Weights [O, I] of pairs of resistive cells: variance 1/I, so that sums over the inputs have about unit size.

    Args:
        formed: share of the cells that conduct at all.
        spread: standard deviation of the logarithm of their conductance.
    """

    def cells() -> Tensor:
        conductance = torch.exp(spread * torch.randn(shape, generator=generator))
        return conductance * (torch.rand(shape, generator=generator) < formed)

    second = formed * math.exp(2 * spread**2)
    first = formed * math.exp(spread**2 / 2)
    return (cells() - cells()) / math.sqrt(2 * (second - first**2) * shape[1])


class Liquid(nn.Module):
    """A reservoir of spiking neurons. Its weights are buffers: no optimiser sees them.

    Args:
        inputs: I.
        neurons: R.
        generator: draws the weights.
        neuron: the model of all R; LIF of tau 4, without division of the current.
        gain: of the inputs; `recurrence`: of the reservoir's own spikes, for which about 1 is the edge of chaos.
        formed, spread: of the cells (`resistive`).

    Raises:
        NetwrightError: no inputs or no neurons.
    """

    into: Tensor
    within: Tensor

    def __init__(
        self,
        inputs: int,
        neurons: int,
        generator: torch.Generator,
        neuron: Neuron | None = None,
        gain: float = 2.0,
        recurrence: float = 0.8,
        formed: float = 0.2,
        spread: float = 0.5,
    ):
        super().__init__()
        if inputs < 1 or neurons < 1:
            raise NetwrightError(f"A liquid of {neurons} neurons and {inputs} inputs: both must be at least 1.")
        self.neuron = LIF(tau=4.0, decay_input=False) if neuron is None else neuron
        self.register_buffer("into", gain * resistive((neurons, inputs), generator, formed, spread))
        self.register_buffer("within", recurrence * resistive((neurons, neurons), generator, formed, spread))

    @torch.no_grad()
    def spikes(self, x: Tensor) -> Tensor:
        """Spikes [T, N, R] that the events x [T, N, I] cause, from rest."""
        driven = F.linear(x, self.into)
        s, state, seen = torch.zeros_like(driven[0]), self.neuron.start(driven[0]), []
        for current in driven:
            s, state = self.neuron.step(current + F.linear(s, self.within), state)
            seen.append(s)
        return torch.stack(seen)

    def forward(self, x: Tensor) -> Tensor:
        """Spike counts [N, R]."""
        return self.spikes(x).sum(0)


def contrastive(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of finding each row's partner among the rows of the other, both ways; a, b [N, D] projections.

    The cosine of every pair over the temperature is its logit (CLIP's loss).
    """
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    partner = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
