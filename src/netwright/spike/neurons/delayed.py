"""Synaptic delay: the current of channel c reaches the neuron d_c steps later.

    s_t = neuron( x_{t - d_c} );    0 before the first current arrives

Whole steps, fixed, one delay for each channel of the neuron's current. Any neuron can be delayed; its parallel form stays,
as a delay is a shift in time. One of the priors of S224.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.neurons.neuron import Neuron, channelwise


class Waiting(NamedTuple):
    """The currents of the last steps, the latest first [D, N, C, ...], and the state of the neuron."""

    line: Tensor
    neuron: Any


class Delayed(nn.Module, Neuron[Waiting]):
    """A neuron behind a delay.

    Args:
        neuron: what the currents reach.
        delay: [C], or [1] for all channels: whole steps from 0.

    Raises:
        NetwrightError: a delay below 0 or not whole.
    """

    name: ClassVar[str] = "delayed"
    paper: ClassVar[Paper] = Paper(
        "chiang2026phc",
        "Parallelized Hierarchical Connectome: A Spatiotemporal Recurrent Framework for Spiking State-Space Models",
        "Chiang, Po-Han", "arXiv", 2026, "https://arxiv.org/abs/2604.01295", "S224",
    )  # fmt: skip
    delay: Tensor

    def __init__(self, neuron: Neuron[Any], delay: Tensor):
        super().__init__()
        if delay.is_floating_point() or int(delay.min()) < 0:
            raise NetwrightError(f"{self.name}: delays are whole numbers of steps from 0; given were {delay.tolist()}.")
        self.neuron = neuron
        self.register_buffer("delay", delay)
        self.longest = int(delay.max())

    def start(self, like: Tensor) -> Waiting:
        return Waiting(like.new_zeros((self.longest, *like.shape)), self.neuron.start(like))

    def step(self, x: Tensor, state: Waiting) -> tuple[Tensor, Waiting]:
        line = torch.cat([x[None], state.line])
        arriving = line.gather(0, channelwise(self.delay, x).expand_as(x)[None])[0]
        s, after = self.neuron.step(arriving, state.neuron)
        return s, Waiting(line[: self.longest], after)

    @property
    def parallel(self) -> bool:
        return self.neuron.parallel

    def scan(self, current: Tensor, state: Waiting) -> tuple[Tensor, Waiting]:
        steps = len(current)
        line = torch.cat([state.line.flip(0), current])
        sent = self.longest + torch.arange(steps, device=current.device).reshape(-1, *[1] * (current.dim() - 1))
        arriving = line.gather(0, (sent - channelwise(self.delay, current[0])).expand_as(current))
        s, after = self.neuron.scan(arriving, state.neuron)
        return s, Waiting(line[steps:].flip(0), after)
