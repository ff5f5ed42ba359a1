"""Signed integrate-and-fire neuron with a memory of its spikes: it takes back what it sent too early.

    u = v + x;   s = [u >= theta and (A < L or L = 0)] - [u < 0 and A > 0];   v = u - theta s;   A = A + s;   v(0) = theta/2

A, the sum of the spikes so far, never falls below zero (nor rises above L). The neuron is silent exactly where 0 <= u < theta, or
at one of the ends of A, so once it is quiet A = clip(floor((v(0) + sum x) / theta), 0, L): the quantised rectifier of all of its
input, in whatever order that came. Wang et al. 2022 (signed neuron with memory), without L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, channelwise


class Remembering(NamedTuple):
    """Potentials and sums of the spikes, both [N, C, ...]."""

    v: Tensor
    sent: Tensor


@dataclass(frozen=True, eq=False)
class Memory(Neuron[Remembering]):
    """`theta` and `v0` are per channel [C], in the unit of the current; `limit` is L, 0 for none."""

    name: ClassVar[str] = "memory"
    paper: ClassVar[Paper] = Paper(
        "wang2022signed", "Signed Neuron with Memory: Towards Simple, Accurate and High-Efficient ANN-SNN Conversion",
        "Wang, Yuchen and Zhang, Malu and Chen, Yi and Qu, Hong", "IJCAI", 2022, "https://doi.org/10.24963/ijcai.2022/347",
    )  # fmt: skip
    theta: Tensor
    v0: Tensor | None = None
    limit: int = 0

    def start(self, like: Tensor) -> Remembering:
        v0 = self.theta / 2 if self.v0 is None else self.v0
        return Remembering(channelwise(v0, like).expand_as(like).clone(), torch.zeros_like(like))

    def step(self, x: Tensor, state: Remembering) -> tuple[Tensor, Remembering]:
        theta, u = channelwise(self.theta, x), state.v + x
        more = (state.sent < self.limit) | (self.limit == 0)
        s = ((u >= theta) & more).to(x.dtype) - ((u < 0) & (state.sent > 0)).to(x.dtype)
        return s, Remembering(u - theta * s, state.sent + s)
