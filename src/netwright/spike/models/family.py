"""Family: the role of everything in this folder, and the small layers that spiking networks share.

Tensors over time are [T, N, C, ...]. Layers without memory see the T*N images as one batch; only neurons walk through time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.spike.layers import Firing, OverTime, Spiking
from netwright.spike.neurons import LIF


class Family:
    """A family of spiking networks: a frozen dataclass that is the configuration of one.

    Any value may be a domain (`choice(...)`, `ints(a, b)`); then it is the `config` of a space, and `Supernet` shares the
    weights of its networks. Constants are computed when they are used and are no buffers, so that every tensor of a network
    is a weight, a slice of one, or a batch statistic.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    def build(self) -> nn.Module:
        """The network: images [N, C, H, W] or sequences [N, T, C] to logits [N, classes]."""
        raise NotImplementedError


class Recurrent(nn.Module):
    """A network of one layer of neurons over sequences, which are no `Spiking` layers of their own."""

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes [T, N, ..., neurons] of sequences x and the potentials after the last step, [N, ..., neurons]."""
        raise NotImplementedError

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes alone."""
        return self.run(x)[0]

    def firing(self, x: Tensor) -> dict[str, Firing]:
        """What the neurons did on x, for every region where there are several."""
        with torch.no_grad():
            spikes, potentials = self.run(x)
        if spikes.dim() == 3:
            return {"neurons": Firing.of(spikes, potentials)}
        return {f"region_{i}": Firing.of(spikes[:, :, i], potentials[:, i]) for i in range(spikes.shape[2])}


PUBLISHED = LIF(tau=2.0, reset="hard")  # of the spiking transformers: hard reset to 0 without gradient
LIVELY = LIF(tau=2.0, decay_input=False)  # fires more often for the same currents, so that less training is enough


class ConvNorm(nn.Sequential):
    """Convolution that keeps the size at stride 1, then batch norm: [N, dim_in, H, W] -> [N, dim_out, H', W'].

    The norm's factors start at `gain`: 0 where a shortcut's branch is to add nothing at first (Goyal et al. 2017, section 5.1).
    """

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, gain: float = 1.0):
        conv, norm = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(dim_out)
        nn.init.constant_(norm.weight, gain)
        super().__init__(OrderedDict(conv=conv, norm=norm))

    def merged(self) -> nn.Conv2d:
        """The same function as one convolution with bias; in evaluation mode."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        return fuse_conv_bn_eval(conv, norm)


class ConvFire(nn.Sequential):
    """fire(norm(conv(x))): spikes in, spikes out, [T, N, dim_in, H, W] -> [T, N, dim_out, H', W']."""

    def __init__(self, neuron: LIF, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1):
        super().__init__(OrderedDict(conv=OverTime(ConvNorm(dim_in, dim_out, kernel, stride)), fire=Spiking(neuron)))


def repeat(x: Tensor, steps: int) -> Tensor:
    """The same current in every step: [N, ...] -> [steps, N, ...], without a copy."""
    return x.expand(steps, *x.shape)


def sequences(x: Tensor) -> Tensor:
    """Time first: sequences [N, T, C], or images [N, C, H, W] row by row, to [T, N, C] (C*W for images).

    Raises:
        NetwrightError: x has another number of axes.
    """
    if x.dim() == 4:
        return x.permute(2, 0, 1, 3).flatten(2)
    if x.dim() != 3:
        raise NetwrightError(
            f"A sequence is [N, T, C] or an image [N, C, H, W] read by rows; this has the shape {list(x.shape)}."
        )
    return x.transpose(0, 1)


def heads_of(width: int, head_width: int) -> int:
    """How many heads `width` channels make.

    Raises:
        NetwrightError: `head_width` does not divide `width`.
    """
    if width % head_width:
        raise NetwrightError(f"{width} channels do not make heads of {head_width}. Give a width that {head_width} divides.")
    return width // head_width
