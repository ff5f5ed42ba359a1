"""Attention confidence: how sure the heads of a transformer are of where to look, read before training.

    A_hnls: attention of head h from position l to s in example n (a softmax),
    score = sum over layers of mean_(h,n,l) max_s A_hnls

Attention is found by what runs: softmax over the last axis of a tensor of three axes or more, also inside
`scaled_dot_product_attention`, which is made to use its plain form.

Serianni and Kalita, Training-free Neural Architecture Search for RNNs and Transformers, ACL 2023, after Voita et al., ACL 2019.
In the authors' own table of 500 BERT variants the rank correlation with the GLUE score is 0.33; the number of parameters has
0.65. Differs: the authors' code has the maximum over heads where Voita et al. have the maximum over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from netwright.core.paper import Paper
from netwright.estimate.proxies.hidden_covariance import HiddenCovariance
from netwright.estimate.proxies.proxy import Loss, Proxy, Watch

aten = torch.ops.aten
PLAIN = "Score other networks with grad_norm or naswot."


def attends(value: Tensor, axis: int) -> bool:
    """Whether a softmax of that shape over that axis is taken for attention."""
    return value.dim() >= 3 and axis % value.dim() == value.dim() - 1


@dataclass(frozen=True)
class AttentionConfidence(Proxy):
    """Mean of the largest attention of each query, summed over layers."""

    name: ClassVar[str] = "attention_confidence"
    needs = "inputs"
    paper: ClassVar[Paper] = HiddenCovariance.paper

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        found: list[Tensor] = []

        def keep(args: Any, result: Tensor) -> None:
            if attends(result, args[1]):
                found.append(result.detach().amax(-1).double().mean())

        seen = dict.fromkeys((aten._softmax, aten._safe_softmax), keep)
        with sdpa_kernel(SDPBackend.MATH), Watch(seen):  # with gradients: the fused inference path of transformers hides it
            network(x)
        if not found:
            raise self.lacks(network, "attention", PLAIN)
        return torch.stack(found).sum()
