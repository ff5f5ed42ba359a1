"""NASWOT: how different the linear pieces are on which the inputs of a batch lie.

    c_n: for each rectifier whether its input is positive for example n,     K_ij = number of rectifiers with c_i = c_j,
    score = log |det K|

Rectifiers are found by what runs, also functional ones: relu and its leaky, clipped and smooth relatives. -inf where two inputs
lie on the same piece.

Mellor et al., Neural Architecture Search without Training, ICML 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, Watch

aten = torch.ops.aten
RECTIFIERS = (
    aten.relu, aten.relu_, aten.threshold, aten.clamp_min, aten.clamp_min_, aten.leaky_relu, aten.leaky_relu_, aten.hardtanh,
    aten.hardtanh_, aten.elu, aten.elu_, aten.gelu, aten.silu, aten.silu_, aten.hardswish, aten.hardswish_, aten.mish, aten.mish_,
    aten._prelu_kernel, aten.softplus,
)  # fmt: skip


@dataclass(frozen=True)
class NASWOT(Proxy):
    """Log-determinant of the kernel of agreeing rectifiers."""

    name: ClassVar[str] = "naswot"
    needs = "inputs"
    paper: ClassVar[Paper] = Paper(
        "mellor2021naswot", "Neural Architecture Search without Training",
        "Mellor, Joseph and Turner, Jack and Storkey, Amos and Crowley, Elliot J.", "ICML", 2021, "https://arxiv.org/abs/2006.04647",
    )  # fmt: skip

    @torch.no_grad()
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        kernels: list[Tensor] = []

        def keep(args: Any, _: Any) -> None:
            value: Tensor = args[0]
            if len(value) == len(x):
                code = torch.where(value.flatten(1) > 0, 1.0, -1.0)
                kernels.append(((code @ code.T).double() + code.shape[1]) / 2)

        with Watch(dict.fromkeys(RECTIFIERS, keep), early=True):
            network(x)
        if not kernels:
            raise self.lacks(network, "rectifiers", "Score networks of another kind with jacob_cov.")
        return torch.linalg.slogdet(torch.stack(kernels).sum(0)).logabsdet
