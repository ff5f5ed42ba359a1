"""Jacobian covariance: whether inputs can be told apart by how the output depends on them.

    J_n = d sum(outputs) / d x_n,     v: eigenvalues of the correlation matrix of the J_n,
    score = -sum_i (log(v_i + k) + 1 / (v_i + k))

k = 1e-5; -inf where the output does not depend on an input. Reads real-valued inputs.

Mellor et al., Neural Architecture Search without Training, first version of arXiv:2006.04647, 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, gradients, spread


def jacobian(name: str, network: nn.Module, x: Tensor) -> Tensor:
    """d sum(network(x)) / d x_n as rows [N, elements of an input].

    Raises:
        NetwrightError: whole-number inputs.
    """
    if not x.is_floating_point():
        raise NetwrightError(f"{name} derives by the inputs, and {x.dtype} has no derivatives. Give it the embedded inputs.")
    (found,) = gradients(network(x.requires_grad_()).sum(), [x])
    return found.flatten(1)


@dataclass(frozen=True)
class JacobCov(Proxy):
    """Spread of the eigenvalues of the correlations between the inputs' Jacobians."""

    name: ClassVar[str] = "jacob_cov"
    needs = "inputs"
    paper: ClassVar[Paper] = Paper(
        "mellor2020naswot", "Neural Architecture Search without Training (first version)",
        "Mellor, Joseph and Turner, Jack and Storkey, Amos and Crowley, Elliot J.", "arXiv", 2020, "https://arxiv.org/abs/2006.04647v1",
    )  # fmt: skip

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
        return spread(jacobian(self.name, network, x))
