"""Norm: the role of everything in this folder.

    y = gain gamma (x - mean) / sqrt(var + eps) + beta

mean and var are of each channel, over time, batch and space: in training those of the batch, at inference those that have
been gathered. How they are gathered, and the gain, is what the methods differ in.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper


class Norm(nn.Module):
    """Batch norm of currents over time [T, N, C, ...].

    Args:
        channels: C.
        eps: added to the variance.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps, self.gain = eps, 1.0
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def gather(self, mean: Tensor, var: Tensor, images: int) -> None:
        """Take in the statistics [C] (var without correction) of a batch of N = `images`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 2], correction=0)
            with torch.no_grad():
                self.gather(mean.detach(), var.detach(), x.shape[1])
        scale = self.gain * self.gamma * torch.rsqrt(var + self.eps)
        shape = (-1, *[1] * (x.dim() - 3))
        return x * scale.reshape(shape) + (self.beta - mean * scale).reshape(shape)

    @torch.no_grad()
    def folded(self, layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
        """One layer with a bias that does at inference what `layer` and the norm behind it do, [N, ...] to [N, C, ...].

        Raises:
            NetwrightError: the layer has another number of outputs.
        """
        if len(layer.weight) != len(self.gamma):
            raise NetwrightError(f"A norm of {len(self.gamma)} channels cannot fold into a layer of {len(layer.weight)} outputs.")
        scale = self.gain * self.gamma * torch.rsqrt(self.var + self.eps)
        bias = torch.zeros_like(self.mean) if layer.bias is None else layer.bias
        if isinstance(layer, nn.Linear):
            one: nn.Conv2d | nn.Linear = nn.Linear(layer.in_features, layer.out_features)
        else:
            assert not isinstance(layer.padding, str)
            one = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
                layer.groups, padding_mode=layer.padding_mode,
            )  # fmt: skip
        one.to(layer.weight.dtype)
        one.weight.copy_(layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        assert one.bias is not None
        one.bias.copy_((bias - self.mean) * scale + self.beta)
        return one
