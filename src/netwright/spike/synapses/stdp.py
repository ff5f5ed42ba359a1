"""Spike-timing-dependent plasticity, pair-based, with traces.

    dW[o, i] = mean over the batch of   A+ p_i post_o  -  A- q_o pre_i
    p <- exp(-1/tau+) (p + pre),        q <- exp(-1/tau-) (q + post)          after the weights have changed

p_i remembers the spikes of the presynaptic neuron i, q_o those of the postsynaptic neuron o. So every pair of spikes counts:
dW = sum A+ exp(-(t_post - t_pre)/tau+) over pairs in which pre comes first, less sum A- exp(-(t_pre - t_post)/tau-) over
those in which it comes last; spikes of the same step count for neither. Times in steps. Song, Miller and Abbott 2000; the
traces are the form of Morrison, Diesmann and Gerstner 2008. The weights themselves are the caller's, also their bounds.
One of the priors of S224.
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


class Traces(NamedTuple):
    """Of the presynaptic [N, I] and of the postsynaptic neurons [N, O]."""

    pre: Tensor
    post: Tensor


@dataclass(frozen=True)
class STDP(Synapse):
    """`a_plus`, `a_minus`: change of a weight by a pair at distance 0; `tau_plus`, `tau_minus`: time constants in steps.

    Raises:
        NetwrightError: a time that is not positive.
    """

    a_plus: float = 0.005
    a_minus: float = 0.00525
    tau_plus: float = 20.0
    tau_minus: float = 20.0

    name: ClassVar[str] = "stdp"
    paper: ClassVar[Paper] = Paper(
        "song2000competitive", "Competitive Hebbian Learning through Spike-Timing-Dependent Synaptic Plasticity",
        "Song, Sen and Miller, Kenneth D. and Abbott, L. F.", "Nature Neuroscience", 2000, "https://doi.org/10.1038/78829",
    )  # fmt: skip
    also: ClassVar[tuple[Paper, ...]] = (Delayed.paper,)

    def __post_init__(self) -> None:
        if self.tau_plus <= 0 or self.tau_minus <= 0:
            raise NetwrightError(f"{self.name}: tau_plus = {self.tau_plus} and tau_minus = {self.tau_minus} must be above 0.")

    @property
    def decays(self) -> tuple[float, float]:
        return math.exp(-1 / self.tau_plus), math.exp(-1 / self.tau_minus)

    def start(self, pre: Tensor, post: Tensor) -> Traces:
        return Traces(torch.zeros_like(pre), torch.zeros_like(post))

    def step(self, pre: Tensor, post: Tensor, state: Traces) -> tuple[Tensor, Traces]:
        """Spikes [N, I] and [N, O] of one step to the change of the weights [O, I] and the next traces."""
        plus, minus = self.decays
        change = self.a_plus * post.T @ state.pre - self.a_minus * state.post.T @ pre
        return change / len(pre), Traces(plus * (state.pre + pre), minus * (state.post + post))

    def scan(self, pre: Tensor, post: Tensor) -> Tensor:
        """The sum of the changes over whole sequences [T, N, I] and [T, N, O], from silence: [O, I]."""
        plus, minus = self.decays

        def traces(spikes: Tensor, decay: float) -> Tensor:
            return linear_scan(decay, decay * torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]]))

        potentiation = torch.einsum("tno,tni->oi", post, traces(pre, plus))
        depression = torch.einsum("tno,tni->oi", traces(post, minus), pre)
        return (self.a_plus * potentiation - self.a_minus * depression) / pre.shape[1]
