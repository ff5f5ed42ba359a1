"""Neuron: the role of everything in this folder. State is explicit: a step takes it and returns the next one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from netwright.core.paper import Paper


class Neuron:
    """A spiking neuron model over a tensor of neurons."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def start(self, like: Tensor) -> Tensor:
        """The initial membrane potentials, shaped like one step's input [N, C, ...]."""
        raise NotImplementedError

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: input current [N, C, ...] and potentials to spikes (-1, 0, 1) and the next potentials."""
        raise NotImplementedError


def channelwise(p: Tensor, like: Tensor) -> Tensor:
    """A vector [C] shaped to broadcast along axis 1."""
    return p.reshape(-1, *[1] * (like.dim() - 2))


def simulate(neuron: Neuron, current: Tensor) -> Tensor:
    """Spikes [T, N, C, ...] of the currents [T, N, C, ...], from the neuron's initial potentials."""
    state, spikes = neuron.start(current[0]), []
    for x in current:
        s, state = neuron.step(x, state)
        spikes.append(s)
    return torch.stack(spikes)
