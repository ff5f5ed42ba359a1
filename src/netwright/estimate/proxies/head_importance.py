"""Head importance: how much the loss depends on each attention head of a transformer, read before training.

    A_hnls: attention of head h from position l to s in example n (a softmax),
    score = sum over layers and heads of sum_n | sum_(l,s) A_hnls * dL/dA_hnls |

sum_(l,s) A * dL/dA is the product <Att_h, dL/dAtt_h> of Michel et al. for the head's output, which is linear in A; L is the mean
over the batch, so that the sum over n is a mean over examples. Attention is found as by attention_confidence.

Serianni and Kalita, Training-free Neural Architecture Search for RNNs and Transformers, ACL 2023, after Michel et al., NeurIPS
2019. In the authors' own table of 500 BERT variants the rank correlation with the GLUE score is 0.25; the number of parameters
has 0.65. Differs: the authors' code sums |w * dL/dw| over the weights of the projections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from netwright.core.paper import Paper
from netwright.estimate.proxies.attention_confidence import PLAIN, attends
from netwright.estimate.proxies.hidden_covariance import HiddenCovariance
from netwright.estimate.proxies.proxy import Loss, Proxy, Watch, gradients

aten = torch.ops.aten


@dataclass(frozen=True)
class HeadImportance(Proxy):
    """How much the loss depends on each attention head, summed over heads and layers."""

    name: ClassVar[str] = "head_importance"
    paper: ClassVar[Paper] = HiddenCovariance.paper

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        found: list[Tensor] = []

        def keep(args: Any, _: Tensor) -> None:
            grad, value, axis = args[:3]
            if attends(value, axis):
                found.append((grad * value).double().sum((-2, -1)).abs().sum())

        with sdpa_kernel(SDPBackend.MATH), Watch({aten._softmax_backward_data: keep}):
            gradients(loss(network(x), y), list(network.parameters()))
        if not found:
            raise self.lacks(network, "attention", PLAIN)
        return torch.stack(found).sum()
