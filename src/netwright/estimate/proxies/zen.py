"""Zen-score: how strongly a network of Gaussian weights answers a small change of its input.

    x, e ~ N(0, 1),     score = log mean_n || f(x) - f(x + gamma e) ||_1 + sum_b log sqrt(mean_c var_bc)

f: the feature map before the global pooling (the output where there is none), weights of convolutions and linear layers drawn
from N(0, 1); b: batch norms, var their running variances after the two passes; they put back the scale that the norms took away.
gamma = 0.01. -inf where the features do not depend on the input.

Lin et al., Zen-NAS: A Zero-Shot NAS for High-Performance Deep Image Recognition, ICCV 2021. The running variances are those of
the authors' code; the paper has the variances of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import LAYERS, NORMS, Loss, Proxy, Watch

aten = torch.ops.aten
POOLS = (aten.mean, aten._adaptive_avg_pool2d, aten.avg_pool2d, aten.adaptive_max_pool2d, aten.amax)


@dataclass(frozen=True)
class Zen(Proxy):
    """Gaussian complexity of the features, with the scales of the batch norms.

    Attributes:
        gamma: size of the change.
    """

    name: ClassVar[str] = "zen"
    needs = "shape"
    paper: ClassVar[Paper] = Paper(
        "lin2021zennas", "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition",
        "Lin, Ming and Wang, Pichao and Sun, Zhenhong and Chen, Hesen and Sun, Xiuyu and Qian, Qi and Li, Hao and Jin, Rong",
        "ICCV", 2021, "https://arxiv.org/abs/2102.01063",
    )  # fmt: skip
    gamma: float = 1e-2

    @torch.no_grad()
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        norms = [m for m in network.modules() if isinstance(m, NORMS)]
        for module in network.modules():
            if isinstance(module, LAYERS):
                nn.init.normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (*NORMS, nn.GroupNorm)) and module.affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for norm in norms:
            norm.reset_running_stats()
        first = torch.randn(x.shape, device=x.device)
        second = first + self.gamma * torch.randn(x.shape, device=x.device)
        change = (self.features(network, first) - self.features(network, second)).flatten(1).abs().sum(1).mean()
        scales = [norm.running_var.mean().log() / 2 for norm in norms if norm.running_var is not None]
        return change.log() + (torch.stack(scales).sum() if scales else 0)

    @staticmethod
    def features(network: nn.Module, x: Tensor) -> Tensor:
        """What the last pooling over all positions reads, or the output."""
        seen: list[Tensor] = []

        def keep(args: Any, result: Any) -> None:
            out = result[0] if isinstance(result, tuple) else result
            if args[0].dim() == 4 and out.numel() == args[0].shape[0] * args[0].shape[1] < args[0].numel():
                seen.append(args[0])

        with Watch(dict.fromkeys(POOLS, keep)):
            out: Tensor = network(x)
        return seen[-1] if seen else out
