"""Fisher: how much the loss would change if single channels were cut, to second order.

    g_nc = sum over positions of a_nc * dL/da_nc,     D_c = 1/2 mean_n g_nc^2,     score = sum_l sum_c |w_c| D_c

a: outputs of a convolution or linear layer l, c its channels; |w_c| numbers of weights make a channel, each of which gets the
channel's saliency.

Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018; Turner et al., BlockSwap, ICLR 2020; summed
over a network as by Abdelfattah et al., ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import LAYERS, Loss, Proxy, gradients, total


@dataclass(frozen=True)
class Fisher(Proxy):
    """Sum over channels of the Fisher saliency, once for each of their weights."""

    name: ClassVar[str] = "fisher"
    paper: ClassVar[Paper] = Paper(
        "turner2020blockswap", "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget",
        "Turner, Jack and Crowley, Elliot J. and O'Boyle, Michael and Storkey, Amos and Gray, Gavin",
        "ICLR", 2020, "https://arxiv.org/abs/1906.04113",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        seen: list[tuple[nn.Module, Tensor]] = []

        def keep(layer: nn.Module, _: Any, out: Tensor) -> None:
            seen.append((layer, out))

        for layer in network.modules():
            if isinstance(layer, LAYERS):
                layer.register_forward_hook(keep)
        grads = gradients(loss(network(x), y), [a for _, a in seen])
        found = []
        for (layer, a), g in zip(seen, grads, strict=True):
            product = a.detach() * g
            axis = -1 if isinstance(layer, nn.Linear) else 1
            by_channel = product.movedim(axis, 1).flatten(2).sum(2) if product.dim() > 2 else product
            weight = layer.weight
            assert isinstance(weight, Tensor)
            found.append(by_channel.square().mean(0) / 2 * (weight.numel() / by_channel.shape[1]))
        return total(found) if found else torch.zeros(())
