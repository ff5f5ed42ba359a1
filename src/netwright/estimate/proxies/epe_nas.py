"""EPE-NAS: the correlations between Jacobians within each class.

    J_n as in jacob_cov,     C_c: correlation matrix of the J_n of class c,     score = sum_c | sum_ij log(|C_c,ij| + k) |

k = 1e-5; classes that are there with one example count log(1 + k). -inf where the output does not depend on an input.

Lopes et al., EPE-NAS: Efficient Performance Estimation Without Training for Neural Architecture Search, ICANN 2021. Differs:
classes are those of `y`, whole numbers; the variant for more than 100 classes is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netwright.core.paper import Paper
from netwright.estimate.proxies.jacob_cov import jacobian
from netwright.estimate.proxies.proxy import WORST, Loss, Proxy


@dataclass(frozen=True)
class EPENAS(Proxy):
    """Correlations between the inputs' Jacobians, class by class."""

    name: ClassVar[str] = "epe_nas"
    paper: ClassVar[Paper] = Paper(
        "lopes2021epenas", "EPE-NAS: Efficient Performance Estimation Without Training for Neural Architecture Search",
        "Lopes, Vasco and Alirezazadeh, Saeid and Alexandre, Luis A.", "ICANN", 2021, "https://arxiv.org/abs/2102.08099",
    )  # fmt: skip
    k: float = 1e-5

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float | Tensor:
        rows = jacobian(self.name, network, x).double()
        rows = rows - rows.mean(1, keepdim=True)
        norm = rows.norm(dim=1, keepdim=True)
        if not bool((norm > 0).all()):
            return WORST
        unit = rows / norm
        found = [((unit[y == c] @ unit[y == c].T).abs() + self.k).log().sum().abs() for c in y.unique()]
        return torch.stack(found).sum()
