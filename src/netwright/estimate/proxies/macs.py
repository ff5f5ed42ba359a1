"""The number of multiply-accumulates: the other baseline that every proxy must beat.

    score = MACs of one example: convolutions, matrix products and attention, as PyTorch counts them

What training-free scores are worth stands beside it in Ning et al., Evaluating Efficient Performance Estimators of Neural
Architectures, NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from netwright.core.paper import Paper
from netwright.estimate.proxies.parameters import Parameters
from netwright.estimate.proxies.proxy import Loss, Proxy


@dataclass(frozen=True)
class MACs(Proxy):
    """Multiply-accumulates of one example, as PyTorch counts them."""

    name: ClassVar[str] = "macs"
    needs = "shape"
    paper: ClassVar[Paper] = Parameters.paper

    @torch.no_grad()
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
        with FlopCounterMode(display=False) as counter:
            network.eval()(x[:1])
        return counter.get_total_flops() / 2
